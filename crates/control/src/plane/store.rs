//! What the control plane must not forget: tokens, registrations with their leases, keys, and the state of root rotation, in one file.
//!
//! Used by `plane`, which confirms nothing before [`Store::commit`] has returned: a commit is on the disk, so that the end of the
//! process or of the machine at any moment loses nothing that was confirmed. The key of the authority is not in it, see `ca`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde_json::Value;
use transept_identity::{Rotation, Tokens};

use super::leases::Lease;
use super::registry::{Entry, Name};

/// Single things, as JSON.
const THINGS: TableDefinition<&str, &[u8]> = TableDefinition::new("things");
/// Registrations by `namespace/name`, as protobuf.
const WORKLOADS: TableDefinition<&str, &[u8]> = TableDefinition::new("workloads");
/// Leases by `namespace/name`, as JSON.
const LEASES: TableDefinition<&str, &[u8]> = TableDefinition::new("leases");
/// Objects by kind, namespace and name, as JSON.
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// Numbers; the revision counts the commits.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const TOKENS: &str = "tokens";
const ROTATION: &str = "rotation";
const SHARERS: &str = "sharers";
const REVISION: &str = "revision";
/// How long another process may have the file open before it counts as one that keeps it.
const MOMENT: Duration = Duration::from_secs(1);
/// Memory for pages of the file.
const CACHE: usize = 16 << 20;

/// Why the store does not work. Displays as a sentence that names the file.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has it open.
    Locked(PathBuf),
    /// It is no store, or is damaged.
    Damaged(PathBuf, String),
    /// Others than its owner may read or write it.
    Open(PathBuf),
    /// The operating system refuses.
    Io(PathBuf, String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(path) => write!(f, "{} is in use: another control plane runs with this state", path.display()),
            Self::Damaged(path, why) => write!(
                f,
                "{} is damaged or no state of a control plane ({why}); restore it from a backup, or move it away to begin \
                 with no tokens and no registrations",
                path.display()
            ),
            Self::Open(path) => write!(
                f,
                "{} can be read or written by others than its owner; `chmod 600` it, and think about who may have read it",
                path.display()
            ),
            Self::Io(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}

/// What was stored.
#[derive(Debug, Default)]
pub struct State {
    /// The join tokens.
    pub tokens: Tokens,
    /// The stage of root rotation; `None` before the first start.
    pub rotation: Option<Rotation>,
    /// The registrations.
    pub entries: Vec<Entry>,
    /// The leases of those that registered over HTTP.
    pub leases: Vec<(Name, Lease)>,
    /// Among how many proxies the limits of policies are divided, by the key of their resource.
    pub sharers: BTreeMap<String, u32>,
    /// Objects that are in no file.
    pub objects: BTreeMap<String, Value>,
    /// The number of commits so far.
    pub revision: u64,
}

/// One change of what is stored.
#[derive(Debug, Clone, Copy)]
pub enum Write<'a> {
    /// The table of tokens.
    Tokens(&'a Tokens),
    /// The stage of root rotation.
    Rotation(&'a Rotation),
    /// A registration; `None` when it is gone.
    Workload(&'a Name, Option<&'a Entry>),
    /// A lease; `None` when it is forgotten.
    Lease(&'a Name, Option<&'a Lease>),
    /// Among how many proxies the limits of policies are divided.
    Sharers(&'a BTreeMap<String, u32>),
    /// An object, by kind and name.
    Object(&'a str, &'a Value),
}

/// What went wrong with the database.
enum Failed {
    /// It cannot be opened again.
    Open(StoreError),
    /// What was to be done with it.
    Work(redb::Error),
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// None after an error: a database that has failed once answers nothing any more, and is opened anew when it is asked next.
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens the file, or makes it so that only its owner can read it.
    ///
    /// # Errors
    /// It is in use, damaged, or open to others.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let began = Instant::now();
        let database = loop {
            match open_database(path) {
                // Commands have it open for a moment when no control plane runs.
                Err(StoreError::Locked(_)) if began.elapsed() < MOMENT => std::thread::sleep(MOMENT / 20),
                opened => break opened?,
            }
        };
        Ok(Self { path: path.to_owned(), database: Mutex::new(Some(database)) })
    }

    /// Does something with the database, which is opened anew when it has failed before.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Failed> {
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match held.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(Failed::Open)?,
        };
        let done = work(&database).map_err(Failed::Work);
        match &done {
            // A full disk has room again some day.
            Err(Failed::Work(redb::Error::Io(_) | redb::Error::PreviousIo)) => {}
            _ => *held = Some(database),
        }
        done
    }

    /// Whether the latest change could be stored, as far as one was tried.
    pub fn is_sound(&self) -> bool {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The file cannot be read, or holds what cannot be understood.
    pub fn load(&self) -> Result<State, StoreError> {
        // A table that does not exist yet is made here, so that the rest need not ask.
        self.commit(&[])?;
        let damaged = |why: String| StoreError::Damaged(self.path.clone(), why);
        let read = |database: &Database| -> Result<State, redb::Error> {
            let mut state = State::default();
            let read = database.begin_read()?;
            let things = read.open_table(THINGS)?;
            if let Some(bytes) = things.get(TOKENS)? {
                state.tokens = parse(bytes.value())?;
            }
            if let Some(bytes) = things.get(ROTATION)? {
                state.rotation = Some(parse(bytes.value())?);
            }
            if let Some(bytes) = things.get(SHARERS)? {
                state.sharers = parse(bytes.value())?;
            }
            for row in read.open_table(WORKLOADS)?.iter()? {
                let (name, bytes) = row?;
                let entry = Entry::decode(bytes.value())
                    .map_err(|error| redb::Error::Corrupted(format!("registration `{}`: {error}", name.value())))?;
                state.entries.push(entry);
            }
            for row in read.open_table(LEASES)?.iter()? {
                let (name, bytes) = row?;
                let wrong = || redb::Error::Corrupted(format!("`{}` is no name of a lease", name.value()));
                let (namespace, own) = name.value().split_once('/').ok_or_else(wrong)?;
                state.leases.push(((namespace.to_owned(), own.to_owned()), parse(bytes.value())?));
            }
            for row in read.open_table(OBJECTS)?.iter()? {
                let (name, bytes) = row?;
                state.objects.insert(name.value().to_owned(), parse(bytes.value())?);
            }
            state.revision = read.open_table(NUMBERS)?.get(REVISION)?.map_or(0, |number| number.value());
            Ok(state)
        };
        self.with(read).map_err(|failed| match failed {
            Failed::Open(error) => error,
            Failed::Work(error) => damaged(error.to_string()),
        })
    }

    /// Makes changes, all or none, and returns when they are on the disk: with the number of commits so far.
    ///
    /// # Errors
    /// Nothing was changed: the disk is full, for example.
    pub fn commit(&self, writes: &[Write<'_>]) -> Result<u64, StoreError> {
        let write = |database: &Database| -> Result<u64, redb::Error> {
            let transaction = database.begin_write()?;
            let revision;
            {
                let mut things = transaction.open_table(THINGS)?;
                let mut workloads = transaction.open_table(WORKLOADS)?;
                let mut leases = transaction.open_table(LEASES)?;
                let mut objects = transaction.open_table(OBJECTS)?;
                for write in writes {
                    match write {
                        Write::Tokens(tokens) => {
                            things.insert(TOKENS, write_json(tokens)?.as_slice())?;
                        }
                        Write::Rotation(rotation) => {
                            things.insert(ROTATION, write_json(rotation)?.as_slice())?;
                        }
                        Write::Sharers(sharers) => {
                            things.insert(SHARERS, write_json(sharers)?.as_slice())?;
                        }
                        Write::Workload(name, Some(entry)) => {
                            workloads.insert(key(name).as_str(), entry.encode_to_vec().as_slice())?;
                        }
                        Write::Workload(name, None) => {
                            workloads.remove(key(name).as_str())?;
                        }
                        Write::Lease(name, Some(lease)) => {
                            leases.insert(key(name).as_str(), write_json(lease)?.as_slice())?;
                        }
                        Write::Lease(name, None) => {
                            leases.remove(key(name).as_str())?;
                        }
                        Write::Object(name, object) => {
                            objects.insert(*name, write_json(object)?.as_slice())?;
                        }
                    }
                }
                let mut numbers = transaction.open_table(NUMBERS)?;
                let before = numbers.get(REVISION)?.map_or(0, |number| number.value());
                revision = before + u64::from(!writes.is_empty());
                numbers.insert(REVISION, revision)?;
            }
            transaction.commit()?;
            Ok(revision)
        };
        self.with(write).map_err(|failed| match failed {
            Failed::Open(error) => error,
            Failed::Work(error) => StoreError::Io(self.path.clone(), format!("cannot be written: {error}")),
        })
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let file = open_private(path)?;
    redb::Builder::new().set_cache_size(CACHE).create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            StoreError::Io(path.to_owned(), error.to_string())
        }
        other => StoreError::Damaged(path.to_owned(), other.to_string()),
    })
}

fn key(name: &Name) -> String {
    format!("{}/{}", name.0, name.1)
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn write_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

/// Opens or makes a file that only its owner reads.
fn open_private(path: &Path) -> Result<File, StoreError> {
    let failed = |error: io::Error| StoreError::Io(path.to_owned(), error.to_string());
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().read(true).write(true).open(path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(StoreError::Open(path.to_owned()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use transept_identity::lease::LeaseHash;
    use transept_identity::token::{SECRET, Uses};
    use transept_identity::{Fingerprint, WorkloadName};
    use transept_xds::mesh::Workload;

    use super::*;

    fn entry(name: &str) -> Entry {
        let workload = Workload { namespace: "default".into(), name: name.into(), ..Workload::default() };
        Entry {
            workload,
            identity: "spiffe://a/b".into(),
            nonce: vec![1],
            lapsed: false,
            at_home: true,
            left: false,
            guest: false,
            turn: 0,
        }
    }

    fn lease() -> Lease {
        let hash = LeaseHash::of_claim("token", "default", "b", b"key");
        Lease { hash, identity: "spiffe://a/b".into(), claim: hash, made: 7, ended: Some(8) }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("state.redb");
        let now = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let mut tokens = Tokens::new();
        let workload = WorkloadName::new("default", "cart").expect("a name");
        let secret: [u8; SECRET] = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
        tokens.create(workload, Uses::Once, Duration::from_secs(60), now, secret.into()).expect("a token");
        let rotation = Rotation::new(Fingerprint::of(b"root"));
        let (a, b) = (("default".to_owned(), "a".to_owned()), ("default".to_owned(), "b".to_owned()));
        {
            let store = Store::open(&path).expect("a new store");
            assert_eq!(store.load().expect("empty").revision, 0);
            let (first, second) = (entry("a"), entry("b"));
            let lease = lease();
            let writes = [
                Write::Tokens(&tokens),
                Write::Rotation(&rotation),
                Write::Workload(&a, Some(&first)),
                Write::Workload(&b, Some(&second)),
                Write::Lease(&a, Some(&lease)),
                Write::Lease(&b, Some(&lease)),
            ];
            assert_eq!(store.commit(&writes).expect("committed"), 1);
            let gone = [Write::Workload(&a, None), Write::Lease(&a, None)];
            assert_eq!(store.commit(&gone).expect("committed"), 2);
        }
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let state = Store::open(&path).expect("an old store").load().expect("readable");
        assert_eq!((state.tokens, state.rotation, state.revision), (tokens, Some(rotation), 2));
        assert_eq!(state.entries, [entry("b")]);
        assert_eq!(state.leases, [(b, lease())]);
    }

    /// A file on a disk that is full at times.
    #[derive(Debug)]
    struct Disk(redb::backends::FileBackend, Arc<AtomicBool>);

    impl Disk {
        fn room(&self) -> io::Result<()> {
            match self.1.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.room()?;
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.room()?;
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room()?;
            self.0.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
    }

    #[test]
    fn a_disk_that_was_full_is_written_to_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("state.redb");
        let is_full = Arc::new(AtomicBool::new(false));
        let file = redb::backends::FileBackend::new(open_private(&path).expect("a file")).expect("a backend");
        let database = redb::Builder::new().create_with_backend(Disk(file, is_full.clone())).expect("a database");
        let store = Store { path, database: Mutex::new(Some(database)) };
        let (a, b) = (("default".to_owned(), "a".to_owned()), ("default".to_owned(), "b".to_owned()));
        store.commit(&[Write::Workload(&a, Some(&entry("a")))]).expect("there is room");
        is_full.store(true, Ordering::SeqCst);
        let full = store.commit(&[Write::Workload(&b, Some(&entry("b")))]).expect_err("there is none");
        assert!(matches!(full, StoreError::Io(..)) && full.to_string().contains("cannot be written"), "{full}");
        assert!(!store.is_sound());
        is_full.store(false, Ordering::SeqCst);
        store.commit(&[Write::Workload(&b, Some(&entry("b")))]).expect("there is room again");
        assert!(store.is_sound());
        assert_eq!(store.load().expect("readable").entries, [entry("a"), entry("b")]);
    }

    #[test]
    fn a_store_in_use_damaged_or_open_to_others_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("state.redb");
        let store = Store::open(&path).expect("a new store");
        let again = Store::open(&path).expect_err("in use");
        assert!(matches!(again, StoreError::Locked(_)) && again.to_string().contains("in use"), "{again}");
        drop(store);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(Store::open(&path), Err(StoreError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");

        std::fs::write(&path, "this is not a database, and long enough to look like one".repeat(1000))
            .expect("written");
        let damaged = Store::open(&path).and_then(|store| store.load()).expect_err("damaged");
        assert!(matches!(damaged, StoreError::Damaged(..)), "{damaged:?}");
        assert!(damaged.to_string().contains("state.redb is damaged"), "{damaged}");
    }
}
