//! A family that no address of ours is named for is reached all the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use chapar::lab::{Mx, MxConfig};

use crate::world::{World, free_port, ip};

/// An address to send from says nothing about the other family.
#[actix::test]
async fn d16_a_source_of_one_family_delivers_over_the_other() {
    let four = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(four.address().port(), |config| {
        config.delivery.source = vec![Ipv6Addr::LOCALHOST.into()];
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.a("mx.example.com", ip(&four));
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com delivered 250 2.0.0 Ok: queued"
    );
    assert_eq!(four.received()[0].client, Ipv4Addr::LOCALHOST);
    world.end().await;

    // The same for the addresses of a route.
    let port = free_port();
    let six = MxConfig {
        address: (Ipv6Addr::LOCALHOST, port).into(),
        ..MxConfig::default()
    };
    let six = Mx::start(six).await.expect("an MX");
    let mut world = World::new(port, |config| {
        config.delivery.source = vec![Ipv6Addr::LOCALHOST.into()];
        config.routes = vec![chapar::config::Route {
            to: "example.com".to_owned(),
            via: vec!["mx:".to_owned()],
            source: vec![Ipv4Addr::LOCALHOST.into()],
            ..chapar::config::Route::default()
        }];
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.aaaa("mx.example.com", Ipv6Addr::LOCALHOST);
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com delivered 250 2.0.0 Ok: queued"
    );
    assert_eq!(six.received()[0].client, Ipv6Addr::LOCALHOST);
    world.end().await;
}
