//! What every place for documents keeps, run against each of them.

use std::collections::BTreeMap;

use crate::records::{Records, Transaction};

/// Checks an empty place.
pub fn check<R: Records>(records: &R) {
    assert_eq!(records.get::<u32>("kind", "a").expect("reads"), None);
    assert!(records.scan::<u32>("kind").expect("scans").is_empty());
    records.delete("kind", "a").expect("absence is success");

    records.put("kind", "b", &2).expect("puts");
    records.put("kind", "a", &1).expect("puts");
    records.put("other", "a", &9).expect("puts");
    records.put("kind", "b", &3).expect("replaces");
    assert_eq!(records.get::<u32>("kind", "b").expect("reads"), Some(3));
    assert_eq!(records.scan::<u32>("kind").expect("scans"), [("a".to_owned(), 1), ("b".to_owned(), 3)]);

    let mut transaction = Transaction::new();
    let document = BTreeMap::from([("key", "value")]);
    transaction.delete("kind", "a").and_then(|both| both.put("other", "b", &document)).expect("encodes");
    records.apply(transaction).expect("applies");
    assert_eq!(records.get::<u32>("kind", "a").expect("reads"), None);
    assert_eq!(records.get::<BTreeMap<String, String>>("other", "b").expect("reads").expect("is there")["key"], "value");

    assert!(records.get::<Vec<u32>>("kind", "b").is_err(), "a document of another shape is an error");
    assert!(records.put("", "a", &1).is_err() && records.put("kind", "", &1).is_err());
}
