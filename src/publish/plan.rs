//! What is to be done at a provider so that records are there, without touching what is not ours.
//! Pure: what is there comes in, steps come out.
//!
//! Ours is what [`super::ledger::Ledger`] has. A record that says something else than ours stays,
//! and the step says so; only an SPF record is replaced by one that contains it.

use super::data::{Data, Record};
use super::{Edit, TTL};

/// Texts of which a name may have one only (RFC 7208 section 4.5, RFC 9989, RFC 8460, RFC 8461).
const SINGLE: [&str; 4] = ["v=spf1", "v=DMARC1", "v=TLSRPTv1", "v=STSv1"];

/// What becomes of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The record.
    pub record: Record,
    /// What is done.
    pub does: Does,
}

/// What is done about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// It is there.
    Nothing,
    /// It comes.
    Add,
    /// It comes in place of these, which are ours, or which it contains.
    Replace(Vec<Data>),
    /// These say something else and are not ours: they stay, and it does not come.
    Keep(Vec<Data>),
}

impl Step {
    /// What the provider is asked to do.
    pub fn edits(&self) -> Vec<Edit> {
        match &self.does {
            Does::Nothing | Does::Keep(_) => Vec::new(),
            Does::Add => vec![Edit::add(&self.record, TTL)],
            Does::Replace(old) => {
                let mut edits: Vec<Edit> = old
                    .iter()
                    .map(|data| Edit::remove(&Record::new(&self.record.name, data.clone())))
                    .collect();
                edits.push(Edit::add(&self.record, TTL));
                edits
            }
        }
    }
}

/// The steps towards `wanted`, with `present` at their names. `contained`: whether a text contains
/// what another one says, so that it may take its place.
pub fn plan(
    wanted: &[Record],
    present: &[Record],
    ours: impl Fn(&Record) -> bool,
    contained: impl Fn(&str, &str) -> bool,
) -> Vec<Step> {
    let step = |record: &Record| {
        let here = || present.iter().filter(|other| other.name == record.name);
        let does = if here().any(|other| other == record) {
            Does::Nothing
        } else {
            let rivals: Vec<&Record> = here()
                .filter(|other| rival(&record.data, &other.data))
                .filter(|other| !wanted.contains(other))
                .collect();
            let may_go = |other: &&Record| {
                ours(other)
                    || match (record.data.text(), other.data.text()) {
                        (Some(new), Some(old)) => rivals.len() == 1 && contained(new, old),
                        _ => false,
                    }
            };
            let all = || rivals.iter().map(|other| other.data.clone()).collect();
            match (rivals.is_empty(), rivals.iter().all(may_go)) {
                (true, _) => Does::Add,
                (false, true) => Does::Replace(all()),
                (false, false) => Does::Keep(all()),
            }
        };
        Step {
            record: record.clone(),
            does,
        }
    };
    wanted.iter().map(step).collect()
}

/// Whether two records of a name can not be there together, or would not mean what they should.
fn rival(new: &Data, other: &Data) -> bool {
    let single = |text: &str| SINGLE.iter().find(|tag| text.starts_with(**tag)).copied();
    match (new, other) {
        // An alias has no other records (RFC 1034 section 3.6.2).
        (Data::Cname(_), _) | (_, Data::Cname(_)) => true,
        (Data::Text(new), Data::Text(other)) => match single(new) {
            Some(tag) => other.starts_with(tag),
            // A key, or an answer for a CA.
            None => new.starts_with("v=DKIM1"),
        },
        _ => new.kind() == other.kind(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Kind;

    fn record(name: &str, kind: Kind, written: &str) -> Record {
        Record::new(name, Data::parse(kind, written).expect(written))
    }

    fn does(wanted: &Record, present: &[Record], ours: &[Record]) -> Does {
        let steps = plan(
            std::slice::from_ref(wanted),
            present,
            |record| ours.contains(record),
            |new, old| new.starts_with("v=spf1") && old.starts_with("v=spf1"),
        );
        steps[0].does.clone()
    }

    #[test]
    fn what_is_not_ours_stays() {
        let mx = record("example.org", Kind::Mx, "10 mx.example.org.");
        let other = record("example.org", Kind::Mx, "1 smtp.google.com.");
        let site = record("example.org", Kind::Txt, "site=1");
        assert_eq!(does(&mx, &[], &[]), Does::Add);
        assert_eq!(does(&mx, std::slice::from_ref(&site), &[]), Does::Add);
        assert_eq!(does(&mx, &[mx.clone(), other.clone()], &[]), Does::Nothing);
        let here = [other.clone()];
        assert_eq!(does(&mx, &here, &[]), Does::Keep(vec![other.data.clone()]));
        assert_eq!(
            does(&mx, &here, &here),
            Does::Replace(vec![other.data.clone()])
        );
        // One of two is not ours.
        let third = record("example.org", Kind::Mx, "2 smtp.example.net.");
        let both = [other.clone(), third.clone()];
        assert_eq!(
            does(&mx, &both, &here),
            Does::Keep(vec![other.data, third.data])
        );
        // The same at another name does not count.
        let elsewhere = record("example.com", Kind::Mx, "1 smtp.google.com.");
        assert_eq!(does(&mx, &[elsewhere], &[]), Does::Add);
    }

    #[test]
    fn a_name_has_one_spf_record_which_contains_the_other() {
        let spf = record("example.org", Kind::Txt, "v=spf1 mx a:mx.example.org -all");
        let old = record("example.org", Kind::Txt, "v=spf1 mx -all");
        let site = record("example.org", Kind::Txt, "site=1");
        let here = [old.clone(), site];
        assert_eq!(
            does(&spf, &here, &[]),
            Does::Replace(vec![old.data.clone()])
        );
        let two = [
            old.clone(),
            record("example.org", Kind::Txt, "v=spf1 a -all"),
        ];
        assert!(matches!(does(&spf, &two, &[]), Does::Keep(_)));
        let dmarc = record("_dmarc.example.org", Kind::Txt, "v=DMARC1; p=quarantine");
        let theirs = record("_dmarc.example.org", Kind::Txt, "v=DMARC1; p=reject");
        assert_eq!(
            does(&dmarc, std::slice::from_ref(&theirs), &[]),
            Does::Keep(vec![theirs.data])
        );
        let key = record("k._domainkey.example.org", Kind::Txt, "v=DKIM1; p=AA");
        let other = record("k._domainkey.example.org", Kind::Txt, "p=BB");
        assert_eq!(
            does(&key, std::slice::from_ref(&other), &[]),
            Does::Keep(vec![other.data])
        );
    }

    #[test]
    fn an_alias_is_alone() {
        let alias = record("mta-sts.example.org", Kind::Cname, "mx.example.org.");
        let address = record("mta-sts.example.org", Kind::A, "192.0.2.1");
        assert!(matches!(
            does(&alias, std::slice::from_ref(&address), &[]),
            Does::Keep(_)
        ));
        assert!(matches!(
            does(&address, std::slice::from_ref(&alias), &[]),
            Does::Keep(_)
        ));
        // Unless it is ours.
        let ours = [alias.clone()];
        assert_eq!(
            does(&address, &ours, &ours),
            Does::Replace(vec![alias.data])
        );
    }

    #[test]
    fn two_that_are_wanted_are_no_rivals() {
        let a = record("mx.example.org", Kind::A, "192.0.2.1");
        let b = record("mx.example.org", Kind::A, "192.0.2.2");
        let steps = plan(&[a.clone(), b], &[a], |_| false, |_, _| false);
        assert_eq!(steps[0].does, Does::Nothing);
        assert_eq!(steps[1].does, Does::Add);
        assert_eq!(steps[1].edits().len(), 1);
    }
}
