//! Volumes: made, listed and removed, never while a container uses them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use store::{NewVolume, Volume};
use types::Id;

use crate::container::Record;
use crate::mounts::Source;
use crate::request::{CreateVolume, Filters, Pruned};
use crate::{Engine, Error, filter};

const LIST_FILTERS: &[&str] = &["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

impl Engine {
    /// Makes a volume, or answers the one of that name as it is.
    pub async fn create_volume(self: &Arc<Self>, request: CreateVolume) -> Result<Arc<Volume>, Error> {
        if let Some(name) = &request.name
            && !crate::name::is_valid(name)
        {
            return Err(Error::BadVolumeName { name: name.clone() });
        }
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(Error::NoSuchVolumeDriver { name: request.name.unwrap_or_default(), driver: request.driver });
        }
        if !request.options.is_empty() {
            return Err(Error::NotServed { field: "DriverOpts of a volume".to_owned() });
        }
        let _in_use = self.volume_lock.lock().await;
        let new = NewVolume { name: request.name, labels: request.labels, ..NewVolume::default() };
        let store = self.store.clone();
        let known = new.name.as_deref().is_some_and(|name| store.volume(name).is_ok());
        let made = tokio::task::spawn_blocking(move || store.create_volume(&new)).await?;
        let volume = made.map_err(|source| Error::Store { operation: "make the volume", source })?;
        if !known {
            self.volume_event("create", &volume.name);
        }
        Ok(volume)
    }

    /// All volumes that the filters select, by name.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<Arc<Volume>>, Error> {
        filter::known(&filters, LIST_FILTERS)?;
        let dangling = filter::flag(&filters, "dangling")?;
        let holds = |volume: &Volume| {
            dangling.is_none_or(|wanted| self.volume_users(&volume.name).is_empty() == wanted)
                && filter::any(&filters, "driver", |driver| driver == "local")
                && filter::any(&filters, "name", |part| volume.name.contains(part))
                && filter::labels_match(&filters, volume.labels.as_ref().unwrap_or(&BTreeMap::new()))
        };
        Ok(self.store.volumes().into_iter().filter(|volume| holds(volume)).collect())
    }

    /// The volume of that name.
    pub fn inspect_volume(&self, name: &str) -> Result<Arc<Volume>, Error> {
        self.store.volume(name).map_err(|_| Error::NoSuchVolume { name: name.to_owned() })
    }

    /// Removes a volume that no container uses. With `force`, one that is not there is no error.
    pub async fn remove_volume(self: &Arc<Self>, name: &str, force: bool) -> Result<(), Error> {
        let _in_use = self.volume_lock.lock().await;
        if let Err(missing) = self.inspect_volume(name) {
            return if force { Ok(()) } else { Err(missing) };
        }
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(Error::VolumeInUse { name: name.to_owned(), users: users.join(", ") });
        }
        self.drop_volume(name.to_owned()).await
    }

    /// Removes volumes that no container uses: anonymous ones, and with `all` named ones too.
    pub async fn prune_volumes(self: &Arc<Self>, filters: Filters) -> Result<Pruned, Error> {
        filter::known(&filters, PRUNE_FILTERS)?;
        let all = filter::flag(&filters, "all")?.unwrap_or(false);
        let _in_use = self.volume_lock.lock().await;
        let mut pruned = Pruned::default();
        for volume in self.store.volumes() {
            let labels = volume.labels.clone().unwrap_or_default();
            if !(all || volume.anonymous) || !filter::labels_match(&filters, &labels) || !self.volume_users(&volume.name).is_empty() {
                continue;
            }
            let (store, name) = (self.store.clone(), volume.name.clone());
            pruned.reclaimed += tokio::task::spawn_blocking(move || store.volume_size(&name)).await?.unwrap_or(0);
            self.drop_volume(volume.name.clone()).await?;
            pruned.deleted.push(volume.name.clone());
        }
        self.pruned_event("volume", pruned.reclaimed);
        Ok(pruned)
    }

    /// Identifiers of the containers that use a volume, whether they run or not.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |record: &Record| record.volumes().any(|(used, _)| used == name);
        self.containers
            .all()
            .iter()
            .map(|container| container.record())
            .filter(|record| uses(record))
            .map(|record| record.id.to_string())
            .collect()
    }

    /// Makes the volumes of a new container, names the anonymous ones, and fills them from the image. The caller holds `volume_lock`. Blocks.
    pub(crate) fn provide_volumes(&self, record: &mut Record, lower: &[std::path::PathBuf]) -> Result<(), Error> {
        let failed = |operation| move |source| Error::Store { operation, source };
        let notes = self.layout.anonymous_volumes(&record.id);
        for mount in &mut record.planned_mounts {
            let Source::Volume { name, anonymous, no_copy, labels, .. } = &mut mount.source else { continue };
            let wanted = Some(name.clone()).filter(|name| !name.is_empty());
            let known = wanted.as_deref().is_some_and(|name| self.store.volume(name).is_ok());
            let labels = Some(labels.clone()).filter(|labels| !labels.is_empty());
            let mut new = NewVolume { name: wanted, labels, ..NewVolume::default() };
            if new.name.is_none() {
                new.digits = Some(note_anonymous(&notes)?);
            }
            let volume = self.store.create_volume(&new).map_err(failed("make the volume"))?;
            if !known {
                self.volume_event("create", &volume.name);
            }
            name.clone_from(&volume.name);
            *anonymous = new.name.is_none();
            if !*no_copy {
                self.store.fill_volume(&volume.name, lower, &mount.destination).map_err(failed("fill the volume from the image"))?;
            }
        }
        let directory =
            |name: &str| self.store.volume(name).map(|volume| volume.mountpoint.to_string_lossy().into_owned()).unwrap_or_default();
        record.mounts = record.planned_mounts.iter().filter_map(|mount| mount.point(directory)).collect();
        Ok(())
    }

    /// Removes the anonymous volumes of a creation that was interrupted before the container was recorded. Blocks.
    pub(crate) fn drop_unrecorded_volumes(&self, id: &Id) {
        let noted = std::fs::read_to_string(self.layout.anonymous_volumes(id)).unwrap_or_default();
        for name in noted.lines().filter(|name| self.store.volume(name).is_ok_and(|volume| volume.anonymous)) {
            if let Err(error) = self.store.remove_volume(name) {
                tracing::warn!(
                    volume = name,
                    error = types::error::chain(&error),
                    "a volume of an interrupted creation could not be removed"
                );
            }
        }
    }

    /// Removes those of the container's anonymous volumes that no other container uses.
    pub(crate) async fn drop_anonymous_volumes(self: &Arc<Self>, record: &Record) {
        let _in_use = self.volume_lock.lock().await;
        for (name, anonymous) in record.volumes() {
            let others = self.volume_users(name).iter().any(|user| user != record.id.as_str());
            if anonymous
                && !others
                && let Err(error) = self.drop_volume(name.to_owned()).await
            {
                tracing::warn!(volume = name, error = types::error::chain(&error), "an anonymous volume could not be removed");
            }
        }
    }

    async fn drop_volume(&self, name: String) -> Result<(), Error> {
        let store = self.store.clone();
        let removed = name.clone();
        tokio::task::spawn_blocking(move || store.remove_volume(&name))
            .await?
            .map_err(|source| Error::Store { operation: "remove the volume", source })?;
        self.volume_event("destroy", &removed);
        Ok(())
    }

    /// Tells of the volumes that a container has mounted, or has let go.
    pub(crate) fn volume_events(&self, record: &Record, action: &str) {
        for mount in record.mounts.iter().filter(|mount| mount.kind == "volume") {
            let mut attributes =
                BTreeMap::from([("container".to_owned(), record.id.to_string()), ("driver".to_owned(), mount.driver.clone())]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), mount.destination.clone());
                attributes.insert("propagation".to_owned(), mount.propagation.clone());
                attributes.insert("read/write".to_owned(), mount.rw.to_string());
            }
            self.events.publish("volume", action, mount.name.as_str(), attributes);
        }
    }

    fn volume_event(&self, action: &str, name: &str) {
        self.events.publish("volume", action, name, BTreeMap::from([("driver".to_owned(), "local".to_owned())]));
    }
}

/// Chooses the name of an anonymous volume and writes it down beside the container's files, before the volume is made: whatever happens
/// until the container has a record, the volume is found again.
fn note_anonymous(notes: &Path) -> Result<Id, Error> {
    let name = Id::random();
    let noted = File::options().append(true).create(true).open(notes).and_then(|mut file| {
        writeln!(file, "{name}")?;
        file.sync_all()
    });
    noted.map_err(|source| Error::File { operation: "write", path: notes.to_owned(), source })?;
    Ok(name)
}
