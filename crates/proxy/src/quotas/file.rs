//! The file itself: what is in it, and how it is opened, written and cleaned.
//!
//! Used by the thread of [`super`] and by nobody else. A file that was damaged can make the database panic wherever it is read; here that is
//! an error like others.

use std::collections::HashMap;
use std::fs::{OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use transept_engine::limit::book::{Count, Period};
use transept_engine::login::ended::{End, MOST_KEPT, Subject};

/// What a key has used: the name of the key; the beginning and the end of its period, and what it has used in it.
const USED: TableDefinition<'_, u128, (u64, u64, u64)> = TableDefinition::new("used-2");
/// Numbers by name.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers-1");
/// What was given up: the hash of what it is about; when, and until when that must be known, in seconds since 1970.
const GIVEN_UP: TableDefinition<'_, &Subject, (u64, u64)> = TableDefinition::new("given-up-1");
/// The seed of the hashes.
const SEED: &str = "seed";

/// Memory for pages of the file.
const CACHE: usize = 16 << 20;

/// What is in the file.
pub(super) struct Contents {
    pub(super) seed: u64,
    /// What is still counted.
    pub(super) counts: Vec<(u128, Count)>,
    /// What was given up and is not over by itself.
    pub(super) ended: HashMap<Subject, End>,
}

/// The open file.
pub(super) struct File {
    /// None only while it is dropped.
    database: Option<Database>,
}

/// What a file is until somebody writes into it or puts another one in its place: where it is, its length, and when it was changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    file: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Version {
    /// That of what is there now; none where nothing is.
    pub(super) fn of(path: &Path) -> Option<Version> {
        let found = path.metadata().ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Version { file: (found.dev(), found.ino()), length: found.len(), changed })
    }
}

/// What to do about a file that nobody can read any more.
const DAMAGED: &str = "the file is damaged: put a copy of it in its place, or move it away to begin a new one, which knows of no quota that was \
                       used and of no session that has ended";

/// What to do about a file that cannot be opened.
pub(super) fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            "another process has the file: give this one a file of its own with --quotas FILE"
        }
        _ if is_damaged(error) => DAMAGED,
        _ => "see that the directory is there and can be written to, or name another file with --quotas FILE",
    }
}

/// Whether it is the fault of what is in the file: reading it again does not help.
pub(super) fn is_damaged(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof),
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

/// Does something with the database. One that panics has read what makes no sense: the file is damaged.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(redb::Error::Corrupted(format!("it makes no sense: {}", why.unwrap_or("no reason is known"))))
    })
}

impl Drop for File {
    fn drop(&mut self) {
        let database = self.database.take();
        // It writes when it is closed.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

impl File {
    /// Opens the file or makes it, readable for its owner only. A seed that is in use already is the one of the file from now on.
    pub(super) fn open(path: &Path, seed: Option<u64>) -> Result<(File, Contents), Box<redb::Error>> {
        let database = guarded(|| match disk_file(path)? {
            Some(file) => database_in(file),
            None => make(path),
        })?;
        // A name of its own, so that it is not dropped by a panic.
        let file = File { database: Some(database) };
        let contents = guarded(|| file.begin(seed))?;
        Ok((file, contents))
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    fn begin(&self, seed: Option<u64>) -> Result<Contents, redb::Error> {
        let write = self.database()?.begin_write()?;
        let seed = {
            let mut numbers = write.open_table(NUMBERS)?;
            let known = numbers.get(SEED)?.map(|seed| seed.value());
            let seed = seed.or(known).unwrap_or_else(|| RandomState::new().hash_one(SEED));
            if known != Some(seed) {
                numbers.insert(SEED, seed)?;
            }
            seed
        };
        write.open_table(USED)?;
        write.open_table(GIVEN_UP)?;
        write.commit()?;
        self.throw_away()?;
        let (mut counts, mut ended) = (Vec::new(), HashMap::new());
        let read = self.database()?.begin_read()?;
        for row in read.open_table(USED)?.iter()? {
            let (hash, row) = row?;
            let (begin, end, used) = row.value();
            counts.push((hash.value(), Count { period: Period { begin, end }, used }));
        }
        for row in read.open_table(GIVEN_UP)?.iter()? {
            let (subject, row) = row?;
            let (at, until) = row.value();
            ended.insert(*subject.value(), End { at: Duration::from_secs(at), until: Duration::from_secs(until) });
        }
        Ok(Contents { seed, counts, ended })
    }

    /// Writes all or nothing, and returns when it is on the disk.
    pub(super) fn write(&self, counts: &[(u128, Option<Count>)], ended: &[(Subject, End)]) -> Result<(), redb::Error> {
        guarded(|| self.put(counts, ended))
    }

    fn put(&self, counts: &[(u128, Option<Count>)], ended: &[(Subject, End)]) -> Result<(), redb::Error> {
        let write = self.database()?.begin_write()?;
        {
            let mut used = write.open_table(USED)?;
            for (hash, count) in counts {
                match count {
                    Some(count) => used.insert(hash, (count.period.begin, count.period.end, count.used))?,
                    None => used.remove(hash)?,
                };
            }
            let mut given_up = write.open_table(GIVEN_UP)?;
            for (subject, end) in ended {
                // A part of a second counts whole: what is known too long does no harm.
                given_up.insert(subject, (end.at.as_secs(), end.until.as_secs().saturating_add(1)))?;
            }
            make_room(&mut given_up, MOST_KEPT)?;
        }
        write.commit()?;
        Ok(())
    }

    /// Throws away what belongs to periods that are over. A day later, because clocks are set back.
    pub(super) fn clean(&self) -> Result<(), redb::Error> {
        guarded(|| self.throw_away())
    }

    fn throw_away(&self) -> Result<(), redb::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let write = self.database()?.begin_write()?;
        write.open_table(USED)?.retain(|_, (_, end, _)| end + 86_400 > now)?;
        write.open_table(GIVEN_UP)?.retain(|_, (_, until)| until.saturating_add(86_400) > now)?;
        write.commit()?;
        Ok(())
    }
}

/// The file on the disk; none where there is none. An empty one is not ours: somebody has lost what was in it.
fn disk_file(path: &Path) -> Result<Option<std::fs::File>, redb::Error> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) if file.metadata()?.len() == 0 => Err(redb::Error::Corrupted("it is empty".to_owned())),
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn database_in(file: std::fs::File) -> Result<Database, redb::Error> {
    Ok(redb::Builder::new().set_cache_size(CACHE).create_file(file)?)
}

/// Makes the file beside its place and puts it there when it is whole: what is left of an end in between is no damaged file.
fn make(path: &Path) -> Result<Database, redb::Error> {
    if path.is_symlink() {
        // What it leads to may be on a disk that is not there yet.
        return Err(std::io::Error::new(ErrorKind::NotFound, "it is a link to a file that is not there").into());
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&beside)?;
    // The database keeps the lock. Whoever has made the file meanwhile still has it, or has put it in its place.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(redb::Error::DatabaseAlreadyOpen);
    }
    if let Some(file) = disk_file(path)? {
        std::fs::remove_file(&beside)?;
        return database_in(file);
    }
    file.set_len(0)?;
    let made = database_in(file).and_then(|database| {
        std::fs::rename(&beside, path)?;
        std::fs::File::open(directory)?.sync_all()?;
        Ok(database)
    });
    if made.is_err() {
        // What is left of it takes room on a disk that may be full; the next attempt begins anew anyway.
        let _ = std::fs::remove_file(&beside);
    }
    made
}

/// Forgets what ends first where there is more than this, and some more, so that this is not done for each.
fn make_room(given_up: &mut redb::Table<'_, &Subject, (u64, u64)>, most: usize) -> Result<(), redb::Error> {
    if given_up.len()? <= most as u64 {
        return Ok(());
    }
    let mut ends = Vec::with_capacity(most);
    for row in given_up.iter()? {
        ends.push(row?.1.value().1);
    }
    let stay = most - most / 8;
    let over = ends.len().saturating_sub(stay + 1);
    let (_, last, _) = ends.select_nth_unstable(over);
    let last = *last;
    given_up.retain(|_, (_, until)| until > last)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_room_what_ends_first_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, _) = File::open(&directory.path().join("quotas.redb"), None).expect("a file");
        let write = file.database().expect("it is open").begin_write().expect("a transaction");
        let mut table = write.open_table(GIVEN_UP).expect("a table");
        for number in 0..17 {
            table.insert(&[number; 32], (0, 100 - u64::from(number))).expect("inserted");
        }
        make_room(&mut table, 16).expect("made");
        let ends: Vec<u64> = table.iter().expect("rows").map(|row| row.expect("a row").1.value().1).collect();
        assert_eq!(ends, (87..=100).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn a_damaged_file_and_one_of_another_process_have_their_own_remedies() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("quotas.redb");
        let held = File::open(&path, None).expect("a file");
        let remedy_of = || remedy(&File::open(&path, None).err().expect("it cannot be used"));
        assert!(remedy_of().contains("another process"));
        drop(held);
        let whole = std::fs::read(&path).expect("a file");
        let half = whole.get(..whole.len() / 2).expect("half of it");
        let other = "this is no database, and long enough to look like one".repeat(1000);
        for damaged in [other.as_bytes(), half, b"short", b""] {
            std::fs::write(&path, damaged).expect("written");
            assert!(remedy_of().contains("damaged"), "{}: {}", damaged.len(), remedy_of());
        }
    }

    #[test]
    fn what_is_left_of_a_file_that_was_not_finished_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("quotas.redb");
        let beside = directory.path().join("quotas.redb.new");
        std::fs::write(&beside, [0; 5000]).expect("written");
        let held = std::fs::File::open(&beside).expect("a file");
        held.lock().expect("locked");
        assert!(matches!(File::open(&path, None).err().map(|error| *error), Some(redb::Error::DatabaseAlreadyOpen)));
        assert!(!path.exists(), "somebody else is making it");
        drop(held);
        let (file, _) = File::open(&path, None).expect("a file");
        assert!(path.exists() && !beside.exists());
        assert!(remedy(&File::open(&path, None).err().expect("it is in use")).contains("another process"));
        drop(file);
        assert!(File::open(&path, None).is_ok());
    }

    #[test]
    fn bytes_that_have_changed_are_an_error_and_no_panic() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("quotas.redb");
        let (file, _) = File::open(&path, None).expect("a file");
        file.write(&[], &[([7; 32], End { at: Duration::ZERO, until: Duration::from_secs(1 << 40) })])
            .expect("written");
        drop(file);
        let whole = std::fs::read(&path).expect("a file");
        let mut found = Vec::new();
        // Every place that is not zero, a few at a time: what is there is used.
        let used: Vec<usize> = (4096..whole.len()).filter(|at| whole[*at] != 0).collect();
        for places in used.chunks(used.len() / 60 + 1) {
            let mut damaged = whole.clone();
            for place in places {
                damaged[*place] ^= 0x55;
            }
            std::fs::write(&path, damaged).expect("written");
            if let Err(error) = File::open(&path, None) {
                assert_eq!(remedy(&error), DAMAGED, "{error}");
                found.push(error.to_string());
            }
        }
        assert!(found.iter().any(|error| error.contains("makes no sense")), "{found:#?}");
        std::fs::write(&path, whole).expect("written");
        assert!(File::open(&path, None).is_ok_and(|(_, contents)| contents.ended.len() == 1));
    }
}
