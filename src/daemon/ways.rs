//! Where addresses lead and how mail goes on from there, by the configuration as it is now: for
//! operators, whose connection to the control socket outlives a reload.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Config;
use crate::identity::Identity;
use crate::intake::onward::onward;
use crate::intake::outside::Outside;
use crate::queue::{Leads, Onwards};

struct Now {
    config: Arc<Config>,
    identity: Arc<Identity>,
    outside: Arc<Outside>,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub(super) struct Ways(Arc<RwLock<Arc<Now>>>);

impl Ways {
    pub(super) fn new(
        config: &Arc<Config>,
        identity: &Arc<Identity>,
        outside: &Arc<Outside>,
    ) -> Ways {
        let now = Now {
            config: config.clone(),
            identity: identity.clone(),
            outside: outside.clone(),
        };
        Ways(Arc::new(RwLock::new(Arc::new(now))))
    }

    /// From now on these hold.
    pub(super) fn replace(
        &self,
        config: &Arc<Config>,
        identity: &Arc<Identity>,
        outside: &Arc<Outside>,
    ) {
        let now = Now {
            config: config.clone(),
            identity: identity.clone(),
            outside: outside.clone(),
        };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
    }

    fn now(&self) -> Arc<Now> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where addresses lead.
    pub(super) fn leads(&self) -> Leads {
        let ways = self.clone();
        Arc::new(move |address| super::start::led(&ways.now().identity, address))
    }

    /// How redirected mail goes on.
    pub(super) fn onward(&self) -> Onwards {
        let ways = self.clone();
        Arc::new(move |message, content, forwarder, targets| {
            let now = ways.now();
            let house = (&*now.config, &*now.identity, &*now.outside);
            let at = crate::time::now();
            onward(house, (message, content), forwarder, targets, at)
        })
    }
}
