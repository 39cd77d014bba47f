//! Gives pages of the program's files back that only the start, or a change of the configuration, has used.
//!
//! Begun by `sidecar` and then on its own. A process keeps every page of its program that it ever touched, and the kernel maps 64 KiB
//! around each: after the start that is nearly all of the program, of which a request needs little. A proxy stands beside every
//! program, so this is most of what one costs.
//!
//! Invariant: only mappings of the program itself are given up, which never move, that nobody can write to and of which the kernel says
//! that not one page differs from its file. Whoever touches such a page again gets the same bytes, mostly without a disk, from the page cache.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::ptr::without_provenance_mut;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::sync::watch;
use transept_proxy::feed::Standing;

/// Where the kernel says what is mapped and what became of it.
const MAPPINGS: &str = "/proc/self/smaps";
/// Changes come in swarms, and what follows them (connections, handshakes) is to be through as well.
const PAUSE: Duration = Duration::from_secs(10);

/// What requests of a busy time have used is given back at least so often.
const REGULARLY: Duration = Duration::from_secs(600);

/// Gives back what can be spared: after the start, after everything that is told of (configuration, connections to the control
/// plane, renewals), and regularly. Ends with the sender.
pub(super) async fn tend(mut standing: watch::Receiver<Standing>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        standing.mark_unchanged();
        if let Err(error) = let_go() {
            tracing::debug!("pages of the program stay in memory: {error}");
            return;
        }
        if let Ok(Err(_)) = tokio::time::timeout(REGULARLY, standing.changed()).await {
            return;
        }
    }
}

/// Gives up every page that is the same in its file.
fn let_go() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let_go_of(&program.to_string_lossy())
}

/// Gives up every page of mappings of this file that is the same in it.
fn let_go_of(file: &str) -> io::Result<()> {
    for range in unchanged(&std::fs::read_to_string(MAPPINGS)?, file) {
        // SAFETY: the mapping is private, not writable, and of the program itself, whose mappings stay where they are for as long as it
        // runs; and the kernel has counted no page in it that is not the file's: whoever reads or runs it afterwards finds what was
        // there before.
        unsafe { madvise(without_provenance_mut(range.start), range.len(), Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// The mappings of a file that hold nothing but what is in it (proc(5), `/proc/pid/smaps`).
fn unchanged(mappings: &str, file: &str) -> Vec<Range<usize>> {
    let (mut found, name) = (Vec::new(), format!(" {file}"));
    let mut candidate = None;
    // Said by the kernel, and not merely left out.
    let mut is_counted = false;
    for line in mappings.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first {
            "Anonymous:" if second == "0" => is_counted = true,
            "Anonymous:" | "Swap:" | "Locked:" if second != "0" => candidate = None,
            "VmFlags:" => found.extend(candidate.take().filter(|_| is_counted)),
            field if field.ends_with(':') => {}
            addresses => {
                // Permissions, offset, device, inode, name, which may have spaces.
                let of_the_file = line.ends_with(&name) && words.nth(2).is_some_and(|inode| inode != "0");
                candidate = read_range(addresses).filter(|_| of_the_file && matches!(second, "r-xp" | "r--p"));
                is_counted = false;
            }
        }
    }
    found
}

fn read_range(addresses: &str) -> Option<Range<usize>> {
    let (start, end) = addresses.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect};

    use super::*;

    const LENGTH: usize = 64 * 4096;

    /// Pages of a file of sevens, mapped private with these permissions, for as long as the process lives.
    fn map(file: &File, permissions: ProtFlags) -> &'static mut [u8] {
        // SAFETY: a new mapping of a file that nobody changes any more, which is never taken away.
        unsafe {
            let start = mmap(std::ptr::null_mut(), LENGTH, permissions, MapFlags::PRIVATE, file, 0).unwrap();
            std::slice::from_raw_parts_mut(start.cast(), LENGTH)
        }
    }

    /// How much of the mapping at this address is in memory, in KiB.
    fn resident(at: usize) -> usize {
        let text = std::fs::read_to_string(MAPPINGS).unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{at:x}-")));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the mapping is listed");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn pages_of_files_are_given_up_and_changed_ones_stay() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_string_lossy().into_owned();
        file.write_all(&[7; LENGTH]).unwrap();
        let (clean, changed) =
            (map(file.as_file(), ProtFlags::READ), map(file.as_file(), ProtFlags::READ | ProtFlags::WRITE));
        // As a linker does with relocations.
        changed[5000] = 1;
        // SAFETY: nobody writes to it from here on.
        unsafe { mprotect(changed.as_mut_ptr().cast(), LENGTH, MprotectFlags::READ) }.unwrap();
        let sum = |pages: &[u8]| pages.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        assert_eq!(sum(clean), 7 * LENGTH);
        let (clean_at, changed_at) = (clean.as_ptr() as usize, changed.as_ptr() as usize);
        assert_eq!(resident(clean_at), LENGTH / 1024);
        let_go_of(&name).unwrap();
        assert_eq!(resident(clean_at), 0);
        assert!(resident(changed_at) > 0, "what was changed is nowhere else");
        assert_eq!(sum(clean), 7 * LENGTH);
        assert_eq!(sum(changed), 7 * LENGTH - 6);
    }

    #[test]
    fn only_private_read_only_unchanged_mappings_of_files_count() {
        let entry = |header: &str, counts: &str| format!("{header}\nSize: 8 kB\nRss: 8 kB\n{counts}\nVmFlags: rd mr\n");
        let only = 0x1000..0x3000;
        let clean = "Anonymous: 0 kB\nSwap: 0 kB\nLocked: 0 kB";
        let of_file = |permissions: &str| format!("1000-3000 {permissions} 00000000 fe:00 77 /bin/transept");
        for permissions in ["r-xp", "r--p"] {
            assert_eq!(
                unchanged(&entry(&of_file(permissions), clean), "/bin/transept"),
                std::slice::from_ref(&only),
                "{permissions}"
            );
        }
        for (header, counts) in [
            (of_file("rw-p"), clean),
            (of_file("r--s"), clean),
            (of_file("---p"), clean),
            ("1000-3000 r-xp 00000000 fe:00 78 /lib/libc.so.6".to_owned(), clean),
            ("1000-3000 r-xp 00000000 00:00 0 [vdso]".to_owned(), clean),
            ("1000-3000 r--p 00000000 00:00 0".to_owned(), clean),
            (of_file("r--p"), "Anonymous: 4 kB\nSwap: 0 kB"),
            (of_file("r--p"), "Anonymous: 0 kB\nSwap: 4 kB"),
            (of_file("r--p"), "Anonymous: 0 kB\nLocked: 8 kB"),
            // A kernel that does not count says nothing.
            (of_file("r-xp"), "Swap: 0 kB"),
        ] {
            assert!(unchanged(&entry(&header, counts), "/bin/transept").is_empty(), "{header} {counts}");
        }
        let two = entry(&of_file("r-xp"), clean)
            + &entry("5000-6000 r--p 00002000 fe:00 77 /bin/transept", "Anonymous: 4 kB");
        assert_eq!(unchanged(&two, "/bin/transept"), std::slice::from_ref(&only), "one after another");
    }
}
