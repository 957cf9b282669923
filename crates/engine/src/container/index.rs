//! Who is there: containers by identifier, by name and by prefix. A name is a lease that cannot outlive its holder.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use types::Id;

use super::{Container, lock};
use crate::Error;

/// All containers of the engine.
#[derive(Debug, Default)]
pub(crate) struct Index {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<Id, Arc<Container>>,
    names: HashMap<String, Id>,
}

/// A name held for a container that is being made: free again when dropped, unless the container has taken it.
#[derive(Debug)]
pub(crate) struct NameLease<'a> {
    index: &'a Index,
    name: String,
    id: Id,
}

impl Index {
    /// Takes a name for an identifier.
    pub(crate) fn reserve(&self, name: &str, id: &Id) -> Result<NameLease<'_>, Error> {
        let mut inner = lock(&self.inner);
        if let Some(holder) = inner.names.get(name) {
            return Err(Error::NameTaken { name: name.to_owned(), holder: holder.clone() });
        }
        inner.names.insert(name.to_owned(), id.clone());
        Ok(NameLease { index: self, name: name.to_owned(), id: id.clone() })
    }

    /// Makes a container visible under the name of the lease.
    pub(crate) fn insert(&self, container: Arc<Container>, lease: NameLease<'_>) {
        lock(&self.inner).by_id.insert(container.id.clone(), container);
        std::mem::forget(lease);
    }

    /// Makes containers visible that were there before, under the names in their records.
    pub(crate) fn restore(&self, container: Arc<Container>) -> Result<(), Error> {
        let name = container.record().name.clone();
        let lease = self.reserve(&name, &container.id)?;
        self.insert(container, lease);
        Ok(())
    }

    /// Moves a container from one name to another, which must be free.
    pub(crate) fn rename(&self, id: &Id, old: &str, new: &str) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        if let Some(holder) = inner.names.get(new) {
            return Err(Error::NameTaken { name: new.to_owned(), holder: holder.clone() });
        }
        inner.names.remove(old);
        inner.names.insert(new.to_owned(), id.clone());
        Ok(())
    }

    /// Forgets a container and frees its name.
    pub(crate) fn remove(&self, id: &Id) {
        let mut inner = lock(&self.inner);
        inner.by_id.remove(id);
        inner.names.retain(|_, holder| holder != id);
    }

    /// All containers, in no order that means anything.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.inner).by_id.values().cloned().collect()
    }

    /// The container of that identifier, name (with or without a slash) or unambiguous prefix of an identifier.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>, Error> {
        let inner = lock(&self.inner);
        let missing = || Error::NoSuchContainer { name: name.to_owned() };
        if let Ok(id) = name.parse::<Id>()
            && let Some(container) = inner.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        if let Some(container) = inner.names.get(name.strip_prefix('/').unwrap_or(name)).and_then(|id| inner.by_id.get(id)) {
            return Ok(container.clone());
        }
        if name.is_empty() {
            return Err(missing());
        }
        let mut hits = inner.by_id.iter().filter(|(id, _)| id.as_str().starts_with(name));
        match (hits.next(), hits.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix { prefix: name.to_owned() }),
            (None, _) => Err(missing()),
        }
    }

    /// The container of exactly that identifier.
    pub(crate) fn get(&self, id: &Id) -> Option<Arc<Container>> {
        lock(&self.inner).by_id.range::<Id, _>((Bound::Included(id), Bound::Included(id))).next().map(|(_, container)| container.clone())
    }
}

impl Drop for NameLease<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.index.inner);
        if inner.names.get(&self.name) == Some(&self.id) {
            inner.names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::record;

    fn index(containers: &[(&str, &str)]) -> Index {
        let index = Index::default();
        for (id, name) in containers {
            index.restore(Arc::new(Container::new(record(&id.repeat(64 / id.len()), name)))).expect("names differ");
        }
        index
    }

    #[test]
    fn containers_are_found_by_name_identifier_and_prefix() {
        let index = index(&[("ab", "web"), ("ac", "db")]);
        for name in ["web", "/web", "ab", "abab", &"ab".repeat(32)] {
            assert_eq!(index.find(name).expect(name).record().name, "web");
        }
        assert!(matches!(index.find("a"), Err(Error::AmbiguousPrefix { .. })));
        assert!(matches!(index.find(""), Err(Error::NoSuchContainer { .. })));
        assert!(matches!(index.find("nothing"), Err(Error::NoSuchContainer { .. })));
    }

    #[test]
    fn a_name_wins_over_a_prefix() {
        let index = index(&[("ab", "web"), ("cd", "ab")]);
        assert_eq!(index.find("ab").expect("there").id.short(), "cdcdcdcdcdcd");
    }

    #[test]
    fn a_lease_that_is_not_used_frees_the_name() {
        let index = index(&[("ab", "web")]);
        let id = "ef".repeat(32).parse().expect("an identifier");
        assert!(matches!(index.reserve("web", &id), Err(Error::NameTaken { .. })));
        drop(index.reserve("new", &id).expect("free"));
        drop(index.reserve("new", &id).expect("free again"));
        let web = index.find("web").expect("there");
        index.rename(&web.id, "web", "shop").expect("free");
        index.remove(&web.id);
        drop(index.reserve("shop", &id).expect("free after the removal"));
    }
}
