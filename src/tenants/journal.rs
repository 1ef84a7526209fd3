//! The ledger's journal: lines appended to files, in the hands of the operating system when `append` returns, on the disk a group
//! at a time. Knows bytes, not what they say. Blocks for as long as a write to the page cache takes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A file is closed and the next one begun when it has this many bytes.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Least time between the beginnings of two groups where nobody waits: each costs the disk a flush, and a processor a tenth of its
/// time when one follows the other.
const SPACING: Duration = Duration::from_millis(10);
/// Longest line that is read back; far above what is written.
const MAX_LINE: usize = 1 << 20;
/// The disk is asked again this much later.
const SYNC_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);
const PREFIX: &str = "ledger-";
const SUFFIX: &str = ".journal";

/// When written lines are put on the disk. In every case they are with the operating system before `append` returns: they survive
/// the end of this process, however it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Soon, in groups, without anybody waiting: a power cut can lose the last moments.
    #[default]
    Group,
    /// In groups, and answers wait for them: nothing that was answered is lost in a power cut.
    Wait,
    /// When the operating system pleases.
    Never,
}

/// Where a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Number of its file.
    pub segment: u64,
    /// Lines written before it by this process.
    pub line: u64,
}

/// An open journal. Dropping it ends its thread when what was written is on the disk.
pub struct Journal {
    directory: PathBuf,
    sync: Sync,
    open: Mutex<Open>,
    /// No file before this one is there.
    first: AtomicU64,
    syncing: Arc<Syncing>,
    synced: watch::Receiver<u64>,
}

struct Open {
    file: Arc<File>,
    segment: u64,
    length: u64,
    lines: u64,
    /// The file may end in a part of a line.
    torn: bool,
    line: Vec<u8>,
}

#[derive(Default)]
struct Syncing {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    files: Vec<Arc<File>>,
    lines: u64,
    over: bool,
}

impl Journal {
    /// Begins a new file in the directory. What is in older ones is read with [`Journal::leftovers`] before.
    pub fn open(directory: &Path, sync: Sync) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let segment = segments(directory)?.last().map_or(1, |(number, _)| number + 1);
        let file = create(directory, segment)?;
        let syncing = Arc::new(Syncing::default());
        let (sender, synced) = watch::channel(0);
        if sync != Sync::Never {
            let syncing = Arc::clone(&syncing);
            std::thread::Builder::new().name("journal".to_owned()).spawn(move || syncing.run(&sender, sync))?;
        }
        let open = Open { file, segment, length: 0, lines: 0, torn: false, line: Vec::new() };
        Ok(Self { directory: directory.to_owned(), sync, open: Mutex::new(open), first: AtomicU64::new(0), syncing, synced })
    }

    /// Appends one line. `line` must hold no line break.
    pub fn append(&self, line: &[u8]) -> io::Result<Written> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *open;
        if open.torn || open.length >= SEGMENT_BYTES {
            // Nothing is written after a part of a line.
            // Counted before the file is made: where that fails half-way the next attempt takes another name.
            open.segment += 1;
            open.file = create(&self.directory, open.segment)?;
            (open.length, open.torn) = (0, false);
        }
        open.line.clear();
        // Writing to a vector does not fail.
        let _ = write!(open.line, "{:08x} ", crc32fast::hash(line));
        open.line.extend_from_slice(line);
        open.line.push(b'\n');
        if let Err(error) = (&*open.file).write_all(&open.line) {
            // What was written of it is cut off where that is possible, and never followed by another line where it is not.
            open.torn = open.file.set_len(open.length).is_err();
            return Err(error);
        }
        open.length += open.line.len() as u64;
        open.lines += 1;
        let written = Written { segment: open.segment, line: open.lines };
        if self.sync != Sync::Never {
            self.syncing.request(&open.file, open.lines);
        }
        Ok(written)
    }

    /// Waits until the line is as safe as the setting promises.
    pub async fn synced(&self, written: Written) {
        if self.sync == Sync::Wait {
            // The thread lives as long as this value.
            let _ = self.synced.clone().wait_for(|lines| *lines >= written.line).await;
        }
    }

    /// Removes all files before this one: what they held is elsewhere now.
    pub fn forget_before(&self, segment: u64) -> io::Result<()> {
        // Asked after each batch of rows; there is something to remove once in many.
        if self.first.load(Ordering::Acquire) < segment {
            self.remove_before(segment)?;
            self.first.fetch_max(segment, Ordering::AcqRel);
        }
        Ok(())
    }

    fn remove_before(&self, segment: u64) -> io::Result<()> {
        for (_, path) in segments(&self.directory)?.into_iter().filter(|(number, _)| *number < segment) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Renames all files before this one, so that they are not read again and can be looked at.
    pub fn set_aside_before(&self, segment: u64) -> io::Result<()> {
        for (_, path) in segments(&self.directory)?.into_iter().filter(|(number, _)| *number < segment) {
            fs::rename(&path, path.with_extension("damaged"))?;
        }
        Ok(())
    }

    /// Removes the current file, too; only when nothing is appended any more.
    pub fn forget_all(&self) -> io::Result<()> {
        self.remove_before(u64::MAX)
    }

    /// Calls `each` with every whole line in the directory, oldest file first. Returns how many were damaged: a line that is cut
    /// short at a file's end was never acknowledged and does not count.
    pub fn leftovers(directory: &Path, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut bad = 0;
        let segments = if directory.exists() { segments(directory)? } else { Vec::new() };
        for (_, path) in segments {
            let mut reader = BufReader::new(File::open(path)?);
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = io::Read::take(&mut reader, MAX_LINE as u64).read_until(b'\n', &mut line)?;
                if read == 0 {
                    break;
                }
                match checked(&line) {
                    Some(content) => each(content),
                    // A line without an end was never acknowledged: the process was killed while it wrote.
                    None if !line.ends_with(b"\n") => {}
                    None => bad += 1,
                }
            }
        }
        Ok(bad)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.syncing.work().over = true;
        self.syncing.changed.notify_all();
    }
}

impl Syncing {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, file: &Arc<File>, lines: u64) {
        let mut work = self.work();
        if !work.files.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
            work.files.push(Arc::clone(file));
        }
        let idle = work.lines == 0;
        work.lines = lines;
        drop(work);
        if idle {
            self.changed.notify_one();
        }
    }

    /// One group after another: whatever was written while the last one was on its way is the next.
    fn run(&self, synced: &watch::Sender<u64>, sync: Sync) {
        let mut next = Instant::now();
        loop {
            let (files, lines) = {
                let mut work = self.work();
                while work.files.is_empty() && !work.over {
                    work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                while sync == Sync::Group && !work.over {
                    let early = next.saturating_duration_since(Instant::now());
                    if early.is_zero() {
                        break;
                    }
                    work = self.changed.wait_timeout(work, early).unwrap_or_else(PoisonError::into_inner).0;
                }
                next = Instant::now() + SPACING;
                if work.files.is_empty() {
                    return;
                }
                (std::mem::take(&mut work.files), std::mem::take(&mut work.lines))
            };
            for file in files {
                // Whoever waits for it waits on: what is not on the disk is not said to be.
                while let Err(error) = file.sync_data() {
                    tracing::error!(%error, "the ledger's journal cannot be put on the disk");
                    if self.work().over {
                        return;
                    }
                    std::thread::sleep(SYNC_AGAIN);
                }
            }
            let _ = synced.send(lines);
        }
    }
}

fn create(directory: &Path, segment: u64) -> io::Result<Arc<File>> {
    let path = directory.join(format!("{PREFIX}{segment:010}{SUFFIX}"));
    let mut options = OpenOptions::new();
    options.create_new(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(path)?;
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    Ok(Arc::new(file))
}

/// The journal's files by number.
fn segments(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, content) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(&sum[..8]).ok().and_then(|sum| u32::from_str_radix(sum, 16).ok())?;
    (sum == crc32fast::hash(content)).then_some(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn lines(directory: &Path) -> (Vec<String>, usize) {
        let mut lines = Vec::new();
        let bad = Journal::leftovers(directory, |line| lines.push(String::from_utf8(line.to_vec()).unwrap())).unwrap();
        (lines, bad)
    }

    #[tokio::test]
    async fn what_was_appended_is_read_back_without_what_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(lines(&dir.path().join("none")), (vec![], 0));
        let journal = Journal::open(dir.path(), Sync::Wait).unwrap();
        for index in 0..10 {
            let written = journal.append(format!("line {index}").as_bytes()).unwrap();
            journal.synced(written).await;
        }
        drop(journal);
        let (_, path) = segments(dir.path()).unwrap().pop().unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (found, bad) = lines(dir.path());
        assert_eq!((found.len(), bad), (9, 0), "a line without its end is no damage");
        let damaged: Vec<u8> = bytes.iter().map(|byte| if *byte == b'4' { b'5' } else { *byte }).collect();
        fs::write(&path, damaged).unwrap();
        assert!(lines(dir.path()).1 >= 1, "a changed line is noticed");
    }

    #[test]
    fn files_follow_each_other_and_are_forgotten_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), Sync::Group).unwrap();
        let long = vec![b'x'; 3 << 20];
        let segments_of: Vec<u64> = (0..7).map(|_| journal.append(&long).unwrap().segment).collect();
        assert_eq!(segments_of, [1, 1, 1, 2, 2, 2, 3]);
        journal.forget_before(2).unwrap();
        assert_eq!(segments(dir.path()).unwrap().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
        drop(journal);
        let next = Journal::open(dir.path(), Sync::Never).unwrap();
        assert_eq!(next.append(b"y").unwrap().segment, 4, "old files are left alone");
        next.forget_all().unwrap();
        assert!(segments(dir.path()).unwrap().is_empty());
    }
}
