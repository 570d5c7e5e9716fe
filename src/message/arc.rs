//! The ARC sets of a message (RFC 8617 section 4): found and put in order, not verified.

use super::headers::Field;
use super::tags::Tags;

/// Most sets of a chain (RFC 8617 section 4.2.1).
pub const MOST_SETS: usize = 50;

/// The three fields of one instance.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// ARC-Authentication-Results.
    pub results: Field<'a>,
    /// ARC-Message-Signature.
    pub signature: Field<'a>,
    /// ARC-Seal.
    pub seal: Field<'a>,
}

/// The chain of a message.
#[derive(Debug, Clone)]
pub enum Chain<'a> {
    /// No ARC field at all.
    None,
    /// Every instance from 1 has its set; in this order.
    Sets(Vec<Set<'a>>),
    /// Something is missing, twice there, or has no instance.
    Broken {
        /// The highest instance that any field names.
        highest: usize,
        /// What is wrong.
        why: &'static str,
    },
}

impl Chain<'_> {
    /// The instance of the next set, if there may be one.
    pub fn next_instance(&self) -> Option<usize> {
        let highest = match self {
            Chain::None => 0,
            Chain::Sets(sets) => sets.len(),
            Chain::Broken { highest, .. } => *highest,
        };
        (highest < MOST_SETS).then_some(highest + 1)
    }

    /// Whether its newest seal says already that the chain is broken: nobody seals it again
    /// (RFC 8617 section 5.1).
    pub fn says_fail(&self, fields: &[Field<'_>]) -> bool {
        let highest = match self {
            Chain::None => return false,
            Chain::Sets(sets) => sets.len(),
            Chain::Broken { highest, .. } => *highest,
        };
        let seals = fields.iter().filter(|field| field.is("ARC-Seal"));
        seals
            .filter(|seal| instance(seal) == Some(highest))
            .filter_map(|seal| Tags::parse(seal.value)?.get("cv"))
            .any(|cv| cv.eq_ignore_ascii_case("fail"))
    }
}

/// The chain among `fields`.
pub fn chain<'a>(fields: &[Field<'a>]) -> Chain<'a> {
    let named = |name: &str| -> Vec<Field<'a>> {
        let fields = fields.iter().filter(|field| field.is(name));
        fields.copied().collect()
    };
    let results = named("ARC-Authentication-Results");
    let signatures = named("ARC-Message-Signature");
    let seals = named("ARC-Seal");
    if results.is_empty() && signatures.is_empty() && seals.is_empty() {
        return Chain::None;
    }
    let all = results.iter().chain(&signatures).chain(&seals);
    let highest = all.filter_map(instance).max().unwrap_or(0);
    let broken = |why| Chain::Broken { highest, why };
    if results.len() > MOST_SETS || signatures.len() > MOST_SETS || seals.len() > MOST_SETS {
        return broken("too many sets");
    }
    if results.len() != signatures.len() || signatures.len() != seals.len() {
        return broken("a set is not complete");
    }
    let only = |fields: &[Field<'a>], number: usize| -> Option<Field<'a>> {
        let mut found = fields.iter().filter(|f| instance(f) == Some(number));
        let first = found.next()?;
        found.next().is_none().then_some(*first)
    };
    let sets = (1..=seals.len()).map(|number| {
        Some(Set {
            results: only(&results, number)?,
            signature: only(&signatures, number)?,
            seal: only(&seals, number)?,
        })
    });
    match sets.collect() {
        Some(sets) => Chain::Sets(sets),
        None => broken("the instances are not 1, 2, 3 and so on"),
    }
}

/// The value of `i=`; the first tag of ARC-Authentication-Results, anywhere in the others.
fn instance(field: &Field<'_>) -> Option<usize> {
    let value = if field.is("ARC-Authentication-Results") {
        let end = memchr::memchr(b';', field.value)?;
        field.value.get(..end)?
    } else {
        field.value
    };
    let digits = Tags::parse(value)?.get("i")?;
    let plain =
        !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse().ok()).flatten()?;
    (1..=MOST_SETS).contains(&number).then_some(number)
}
