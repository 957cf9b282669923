//! Lists and maps that remember whether they were given at all, since clients tell `null` from `[]` and `{}`.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list that is `null` in JSON until something is put in. Reads like a `Vec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T> {
    items: Vec<T>,
    given: bool,
}

/// A map by text that is `null` in JSON until something is put in. Reads like a `BTreeMap`, so it is written in the order of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map<V> {
    entries: BTreeMap<String, V>,
    given: bool,
}

/// A set of texts, in JSON an object of empty objects.
pub type Set = Map<Empty>;

/// `{}`: the value that Docker's maps used as sets have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

impl<T> List<T> {
    /// The list that is written as `[]` rather than `null`.
    pub const fn empty() -> Self {
        Self { items: Vec::new(), given: true }
    }

    /// Whether it is written as `null`.
    pub fn is_null(&self) -> bool {
        !self.given && self.items.is_empty()
    }

    /// The items.
    pub fn into_vec(self) -> Vec<T> {
        self.items
    }
}

impl<V> Map<V> {
    /// The map that is written as `{}` rather than `null`.
    pub const fn empty() -> Self {
        Self { entries: BTreeMap::new(), given: true }
    }

    /// Whether it is written as `null`.
    pub fn is_null(&self) -> bool {
        !self.given && self.entries.is_empty()
    }

    /// From now on written as `{}` when empty.
    pub fn give(&mut self) {
        self.given = true;
    }

    /// The entries.
    pub fn into_map(self) -> BTreeMap<String, V> {
        self.entries
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), given: false }
    }
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), given: false }
    }
}

impl<T> Deref for List<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

impl<V> Deref for Map<V> {
    type Target = BTreeMap<String, V>;

    fn deref(&self) -> &BTreeMap<String, V> {
        &self.entries
    }
}

impl<V> DerefMut for Map<V> {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, V> {
        &mut self.entries
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, given: true }
    }
}

impl<V> From<BTreeMap<String, V>> for Map<V> {
    fn from(entries: BTreeMap<String, V>) -> Self {
        Self { entries, given: true }
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Vec::from_iter(items).into()
    }
}

impl<V> FromIterator<(String, V)> for Map<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(entries: I) -> Self {
        BTreeMap::from_iter(entries).into()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a, V> IntoIterator for &'a Map<V> {
    type Item = (&'a String, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, String, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if self.is_null() { out.serialize_none() } else { self.items.serialize(out) }
    }
}

impl<V: Serialize> Serialize for Map<V> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if self.is_null() { out.serialize_none() } else { self.entries.serialize(out) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Option::<Vec<T>>::deserialize(input)?.map(Self::from).unwrap_or_default())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Map<V> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Option::<BTreeMap<String, V>>::deserialize(input)?.map(Self::from).unwrap_or_default())
    }
}

/// For `#[serde(deserialize_with)]`: a command line given as one text or as a list.
pub fn text_or_list<'de, D: Deserializer<'de>>(input: D) -> Result<List<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
        Null(()),
    }
    Ok(match Either::deserialize(input)? {
        Either::List(items) => items.into(),
        Either::Text(text) => vec![text].into(),
        Either::Null(()) => List::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_stay_what_they_were() {
        for text in ["null", "[]", r#"["a"]"#] {
            let list: List<String> = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&list).expect(text), text);
        }
        for text in ["null", "{}", r#"{"80/tcp":{}}"#] {
            let set: Set = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&set).expect(text), text);
        }
        let mut list = List::default();
        list.push(1);
        assert_eq!(serde_json::to_string(&list).expect("writes"), "[1]");
    }
}
