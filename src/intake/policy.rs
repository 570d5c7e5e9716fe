//! What follows from the verdicts: taken, refused or deferred. Pure.

use crate::config::{Dmarc, DnsTrouble, SpfFail};
use crate::identity::Policy;
use crate::smtp::replies::Reply;
use crate::verify::Verdicts;
use crate::verify::dmarc::{DmarcResult, Policy as Wish};
use crate::verify::spf::SpfResult;

/// Whether a message may pass, for one of its recipients' domains.
pub fn judge(policy: Policy, verdicts: &Verdicts) -> Result<(), Reply> {
    let dmarc = &verdicts.dmarc;
    let refused = match policy.dmarc {
        Dmarc::Ignore => false,
        Dmarc::Reject => dmarc.policy == Wish::Reject,
        Dmarc::Quarantine => dmarc.policy >= Wish::Quarantine,
    };
    if dmarc.result == DmarcResult::Fail && refused {
        let text = format!(
            "{} asks to refuse mail that neither SPF nor DKIM proves to be its own (DMARC)",
            dmarc.domain
        );
        return Err(Reply::new(550, "5.7.1", text));
    }
    if policy.spf_fail == SpfFail::Reject && verdicts.spf.result == SpfResult::Fail {
        let text = format!(
            "{} says that {} may not send its mail (SPF)",
            verdicts.spf_domain, verdicts.client
        );
        return Err(Reply::new(550, "5.7.23", text));
    }
    if policy.dns_trouble == DnsTrouble::Defer {
        if dmarc.result == DmarcResult::TempError && policy.dmarc != Dmarc::Ignore {
            let text = "The DNS does not answer about your domain (DMARC), try again later";
            return Err(Reply::new(451, "4.7.0", text));
        }
        // Without it nobody could be told of a failure, or whether to refuse.
        if verdicts.spf.result == SpfResult::TempError
            && !verdicts.from.is_empty()
            && !verdicts.is_verified()
        {
            let text = "The DNS does not answer about your domain (SPF), try again later";
            return Err(Reply::new(451, "4.7.24", text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Incoming;
    use crate::verify::{arc, dkim, dmarc, iprev, spf};

    fn verdicts(spf: SpfResult, dmarc: DmarcResult, wish: Wish) -> Verdicts {
        Verdicts {
            client: [192, 0, 2, 1].into(),
            iprev: iprev::Iprev::Fail,
            spf: spf::Outcome {
                result: spf,
                explanation: None,
            },
            from: "a@b.example".into(),
            hello: "mail.b.example".into(),
            spf_domain: "b.example".into(),
            dkim: Vec::new(),
            allowed: None,
            arc: arc::Verdict {
                result: arc::ArcResult::None,
                reason: "",
                sealer: String::new(),
            },
            dmarc: dmarc::Verdict {
                policy: wish,
                ..dmarc::Verdict::new(dmarc, "b.example")
            },
        }
    }

    #[test]
    fn every_policy_says_what_it_means() {
        let default = Policy::from(&Incoming::default());
        let code = |policy, verdicts: &Verdicts| judge(policy, verdicts).map_err(|r| r.code);
        let fails = |wish| verdicts(SpfResult::Fail, DmarcResult::Fail, wish);
        assert_eq!(code(default, &fails(Wish::Reject)), Err(550));
        assert_eq!(code(default, &fails(Wish::Quarantine)), Ok(()));
        assert_eq!(code(default, &fails(Wish::None)), Ok(()));
        let ignore = Policy {
            dmarc: Dmarc::Ignore,
            ..default
        };
        assert_eq!(code(ignore, &fails(Wish::Reject)), Ok(()));
        let strict = Policy {
            dmarc: Dmarc::Quarantine,
            spf_fail: SpfFail::Reject,
            ..default
        };
        assert_eq!(code(strict, &fails(Wish::Quarantine)), Err(550));
        let spf = judge(strict, &fails(Wish::None)).expect_err("refused");
        assert_eq!((spf.code, spf.enhanced), (550, "5.7.23"));
        let passes = verdicts(SpfResult::Pass, DmarcResult::Pass, Wish::Reject);
        assert_eq!(code(strict, &passes), Ok(()));
    }

    #[test]
    fn trouble_defers_only_where_it_matters() {
        let default = Policy::from(&Incoming::default());
        let code = |policy, verdicts: &Verdicts| judge(policy, verdicts).map_err(|r| r.code);
        let dmarc = verdicts(SpfResult::None, DmarcResult::TempError, Wish::None);
        assert_eq!(code(default, &dmarc), Err(451));
        let mut spf = verdicts(SpfResult::TempError, DmarcResult::Pass, Wish::Reject);
        assert_eq!(code(default, &spf), Err(451));
        spf.dkim.push(dkim::Verdict {
            result: dkim::DkimResult::Pass,
            reason: "",
            domain: "b.example".into(),
            selector: "s".into(),
            algorithm: "rsa-sha256",
            mark: String::new(),
        });
        assert_eq!(code(default, &spf), Ok(()));
        let accept = Policy {
            dns_trouble: DnsTrouble::Accept,
            ..default
        };
        assert_eq!(code(accept, &dmarc), Ok(()));
    }
}
