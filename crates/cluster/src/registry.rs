//! The declared objects in a store: volumes and sessions as JSON under their names.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::{BrickId, Epoch, SessionId};
use crate::leadership::Leadership;
use crate::session::Session;
use crate::store::{Entry, Expected, Store, StoreError, Watch};
use crate::volume::Volume;

/// What operators declare is below this prefix, apart from what nodes announce.
const PREFIX: &str = "declared/";

/// Marks are below this prefix: nobody watches them.
const MARKS: &str = "marks/";

/// How often a change is tried again because somebody else was faster.
const ATTEMPTS: u32 = 16;

/// Volumes, sessions and elections in a [`Store`].
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
}

/// Why the registry could not do it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name is taken.
    #[error("there is already a {what} named '{name}'")]
    Taken {
        /// `session` or `volume`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// There is no session of this name.
    #[error("there is no session named '{name}'")]
    NoSession {
        /// The name.
        name: String,
    },
    /// What is stored is not understood: written by another release, or damaged.
    #[error("what is stored as '{key}' is not understood")]
    Malformed {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// All that is declared, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Declared {
    /// Volumes by name.
    pub volumes: Vec<Volume>,
    /// Sessions by name.
    pub sessions: Vec<Session>,
}

impl Registry {
    /// A registry in this store.
    pub fn new(store: Arc<dyn Store>) -> Registry {
        Registry { store }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`RegistryError::Store`] or [`RegistryError::Malformed`].
    pub async fn declared(&self) -> Result<Declared, RegistryError> {
        // Sessions first: a volume is declared before the sessions that use it and is never removed before them.
        let sessions = self.store.list(&format!("{PREFIX}sessions/")).await?;
        let volumes = self.store.list(&format!("{PREFIX}volumes/")).await?;
        Ok(Declared {
            sessions: sessions.iter().map(parse).collect::<Result<_, _>>()?,
            volumes: volumes.iter().map(parse).collect::<Result<_, _>>()?,
        })
    }

    /// Reads a session and the revision at which it was written.
    ///
    /// # Errors
    /// [`RegistryError::NoSession`], or as [`Registry::declared`].
    pub async fn session(&self, name: &str) -> Result<(Session, u64), RegistryError> {
        let entry = self.store.get(&session_key(name)).await?;
        let entry = entry.ok_or_else(|| RegistryError::NoSession { name: name.into() })?;
        Ok((parse(&entry)?, entry.revision))
    }

    /// Declares a volume.
    ///
    /// # Errors
    /// [`RegistryError::Taken`] or [`RegistryError::Store`].
    pub async fn create_volume(&self, volume: &Volume) -> Result<u64, RegistryError> {
        self.create("volume", &volume.name, &format!("{PREFIX}volumes/{}", volume.name), volume).await
    }

    /// Declares a session.
    ///
    /// # Errors
    /// [`RegistryError::Taken`] or [`RegistryError::Store`].
    pub async fn create_session(&self, session: &Session) -> Result<u64, RegistryError> {
        self.create("session", &session.name, &session_key(&session.name), session).await
    }

    /// Changes a session: `change` is called with it as it is, and again if somebody else was faster. Returns the
    /// revision of the write.
    ///
    /// # Errors
    /// What `change` returns, [`RegistryError::NoSession`], or [`RegistryError::Store`].
    pub async fn update_session<E: From<RegistryError>>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Session) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut attempt = 0;
        loop {
            let (mut session, revision) = self.session(name).await?;
            change(&mut session)?;
            let value = encode(&session_key(name), &session)?;
            match self.store.put(&session_key(name), value, Expected::Revision(revision)).await {
                Ok(revision) => return Ok(revision),
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(RegistryError::from(error).into()),
            }
        }
    }

    /// Forgets a session, if it was not changed since `revision`.
    ///
    /// # Errors
    /// [`RegistryError::Store`], also with [`StoreError::Conflict`].
    pub async fn delete_session(&self, name: &str, revision: u64) -> Result<u64, RegistryError> {
        Ok(self.store.delete(&session_key(name), Expected::Revision(revision)).await?)
    }

    /// The last known mark of a session in a brick's changelog, as text.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn mark(&self, session: SessionId, brick: BrickId) -> Result<Option<String>, RegistryError> {
        let entry = self.store.get(&mark_key(session, brick)).await?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// Keeps the mark of a session, durably.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn set_mark(&self, session: SessionId, brick: BrickId, mark: &str) -> Result<(), RegistryError> {
        self.store.put(&mark_key(session, brick), mark.as_bytes().to_vec(), Expected::Any).await?;
        Ok(())
    }

    /// Forgets the marks of a session that is deleted.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn forget_marks(&self, session: SessionId) -> Result<(), RegistryError> {
        for entry in self.store.list(&format!("{MARKS}{session}/")).await? {
            self.store.delete(&entry.key, Expected::Any).await?;
        }
        Ok(())
    }

    /// Reports changes of what is declared.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn watch(&self) -> Result<Watch, RegistryError> {
        Ok(self.store.watch(PREFIX).await?)
    }

    /// Campaigns for the ACTIVE role of a replica set; see [`Store::campaign`].
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn campaign(
        &self,
        session: SessionId,
        replica_set: u32,
        candidate: &str,
    ) -> Result<Leadership, RegistryError> {
        Ok(self.store.campaign(&election(session, replica_set), candidate).await?)
    }

    /// Gives the ACTIVE role up.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn resign(&self, session: SessionId, replica_set: u32, epoch: Epoch) -> Result<(), RegistryError> {
        Ok(self.store.resign(&election(session, replica_set), epoch).await?)
    }

    /// Gives up all roles and ends; see [`Store::close`].
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn close(&self) -> Result<(), RegistryError> {
        Ok(self.store.close().await?)
    }

    async fn create<T: Serialize>(
        &self,
        what: &'static str,
        name: &str,
        key: &str,
        value: &T,
    ) -> Result<u64, RegistryError> {
        match self.store.put(key, encode(key, value)?, Expected::Absent).await {
            Ok(revision) => Ok(revision),
            Err(StoreError::Conflict { .. }) => Err(RegistryError::Taken { what, name: name.into() }),
            Err(error) => Err(error.into()),
        }
    }
}

fn session_key(name: &str) -> String {
    format!("{PREFIX}sessions/{name}")
}

fn mark_key(session: SessionId, brick: BrickId) -> String {
    format!("{MARKS}{session}/{brick}")
}

fn election(session: SessionId, replica_set: u32) -> String {
    format!("{session}/{replica_set}")
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Result<T, RegistryError> {
    serde_json::from_slice(&entry.value).map_err(|source| RegistryError::Malformed { key: entry.key.clone(), source })
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(value).map_err(|source| RegistryError::Malformed { key: key.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::session::Desired;

    fn session(name: &str) -> Session {
        Session {
            id: SessionId::random(),
            name: name.into(),
            primary: "v".into(),
            secondary: "/copy".parse().unwrap(),
            settings: Default::default(),
            desired: Desired::Created,
            version: 1,
        }
    }

    #[tokio::test]
    async fn sessions_are_declared_changed_and_forgotten() {
        let registry = Registry::new(Arc::new(Memory::default()));
        registry.create_volume(&Volume::single("v".into(), "n".into(), "/data".into())).await.unwrap();
        registry.create_session(&session("s")).await.unwrap();
        assert!(matches!(registry.create_session(&session("s")).await, Err(RegistryError::Taken { .. })));
        let start = |session: &mut Session| {
            session.desired = Desired::Started;
            Ok::<(), RegistryError>(())
        };
        registry.update_session("s", start).await.unwrap();
        assert!(matches!(registry.update_session("t", start).await, Err(RegistryError::NoSession { .. })));
        let (found, revision) = registry.session("s").await.unwrap();
        assert_eq!(found.desired, Desired::Started);
        registry.delete_session("s", revision).await.unwrap();
        let declared = registry.declared().await.unwrap();
        assert!(declared.sessions.is_empty() && declared.volumes.len() == 1);
    }

    #[tokio::test]
    async fn no_change_is_lost_between_two_writers() {
        let registry = Registry::new(Arc::new(Memory::default()));
        registry.create_session(&session("s")).await.unwrap();
        let count = |registry: Registry| async move {
            for _ in 0..50 {
                let bump = |session: &mut Session| {
                    session.version += 1;
                    Ok::<(), RegistryError>(())
                };
                registry.update_session("s", bump).await.unwrap();
            }
        };
        tokio::join!(count(registry.clone()), count(registry.clone()));
        assert_eq!(registry.session("s").await.unwrap().0.version, 101);
    }
}
