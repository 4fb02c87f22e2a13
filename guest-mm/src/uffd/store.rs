//! The swap tiers: files and compressed memory, read and written in whole pages.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use host_sys::SharedWords;
use host_sys::process::take_fd;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::held::{Journal, TierEntry};
use super::proto::Tier;
use crate::{PAGE_SIZE, Source, TierConfig, TierId, TierStore};

const PAGE: usize = PAGE_SIZE as usize;
/// A page of zeros.
const ZEROS: [u8; PAGE] = [0; PAGE];

/// A buffer of whole pages, aligned as direct I/O wants it.
pub(crate) struct Pages {
    bytes: Box<[u8]>,
    start: usize,
}

impl Pages {
    /// Makes a buffer of `nr` pages.
    pub(crate) fn new(nr: usize) -> Self {
        let bytes = vec![0u8; (nr + 1) * PAGE].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start }
    }

    /// How many pages it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / PAGE - 1
    }

    /// Gives neighbouring pages.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.bytes[self.start + range.start * PAGE..self.start + range.end * PAGE]
    }

    /// Gives neighbouring pages to be written.
    pub(crate) fn range_mut(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        &mut self.bytes[self.start + range.start * PAGE..self.start + range.end * PAGE]
    }

    /// Gives one page.
    pub(crate) fn page(&self, at: usize) -> &[u8] {
        self.range(at..at + 1)
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({})", self.len())
    }
}

/// Whether a page is all zero.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    page == ZEROS
}

/// A swap file grows by so many bytes at a time.
const GROWTH: u64 = 8 << 20;

/// The file of a tier.
///
/// A file system keeps readers out while a write makes room for itself. So room is made beforehand, for many writes at once.
#[derive(Debug)]
pub(crate) struct TierFile {
    file: File,
    /// Up to where there is room, in bytes.
    allocated: AtomicU64,
}

impl TierFile {
    /// Writes pages to neighbouring places.
    ///
    /// # Errors
    /// Those of `pwrite`; a short write is `ENOSPC`.
    pub(crate) fn write_pages(&self, index: u32, pages: &[u8]) -> io::Result<()> {
        let start = u64::from(index) * PAGE_SIZE;
        self.allocate(start + pages.len() as u64);
        match self.file.write_at(pages, start) {
            Ok(n) if n == pages.len() => Ok(()),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Err(e) => Err(e),
        }
    }

    /// Makes room up to a place. Where that fails, the write finds out for itself.
    fn allocate(&self, end: u64) {
        let from = self.allocated.load(Ordering::Relaxed);
        if end <= from {
            return;
        }
        let to = end.next_multiple_of(GROWTH);
        let flags = FallocateFlags::empty();
        match fallocate(&self.file, flags, from.cast_signed(), (to - from).cast_signed()) {
            Ok(()) => drop(self.allocated.fetch_max(to, Ordering::Relaxed)),
            Err(Errno::EOPNOTSUPP) => self.allocated.store(u64::MAX, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "a swap file cannot grow"),
        }
    }
}

impl From<File> for TierFile {
    fn from(file: File) -> Self {
        Self { file, allocated: AtomicU64::new(0) }
    }
}

impl Deref for TierFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

#[derive(Debug)]
struct Open {
    tier: Tier,
    file: Arc<TierFile>,
    /// A later worker must not take it for one of its own any more.
    is_leaving: bool,
}

/// The tiers of a group, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Store {
    open: [Option<Open>; TierId::LIMIT as usize],
}

/// Tells tiers apart over the life of a worker.
fn digest(tier: &Tier) -> u64 {
    // Sizes may change while it is in use.
    let mut hasher = std::hash::DefaultHasher::new();
    match tier {
        Tier::Lz4 { .. } => 1u8.hash(&mut hasher),
        Tier::File { dir, .. } => (2u8, dir).hash(&mut hasher),
    }
    hasher.finish()
}

impl Store {
    /// Opens the tiers of a configuration, those included that an earlier worker had open, and gives what the core is to know of them.
    ///
    /// # Errors
    /// Those of making a file, with its tier; then nothing has changed.
    pub(crate) fn configure(
        &mut self,
        journal: &Journal,
        tiers: &[Tier],
    ) -> Result<Vec<TierConfig>, (Tier, io::Error)> {
        let mut configs = Vec::new();
        let mut made: Vec<(usize, Open)> = Vec::new();
        let mut taken = [false; TierId::LIMIT as usize];
        for tier in tiers {
            let has = |i: &usize| {
                !taken[*i] && self.open[*i].as_ref().is_some_and(|o| digest(&o.tier) == digest(tier))
            };
            let found = (0..self.open.len()).find(has);
            let free = |i: &usize| !taken[*i] && self.open[*i].is_none();
            let Some(index) = found.or_else(|| (0..self.open.len()).find(free)) else {
                return Err((tier.clone(), io::Error::from_raw_os_error(libc::ENOSPC)));
            };
            taken[index] = true;
            if found.is_none() {
                let file = open(tier).map_err(|e| (tier.clone(), e))?;
                let file = Arc::new(TierFile::from(File::from(file)));
                made.push((index, Open { tier: tier.clone(), file, is_leaving: false }));
            }
            let store = match tier {
                Tier::Lz4 { size } => TierStore::Compressed { bytes: size & !(PAGE_SIZE - 1) },
                Tier::File { size, .. } => {
                    TierStore::File { slots: u32::try_from(size / PAGE_SIZE).unwrap_or(u32::MAX) }
                }
            };
            configs.push(TierConfig { id: TierId(index as u8), store });
        }
        for (index, open) in made {
            journal.set_tier(index, &TierEntry { fd: open.file.as_raw_fd(), digest: digest(&open.tier) });
            self.open[index] = Some(open);
        }
        for (index, open) in self.open.iter_mut().enumerate() {
            if let Some(open) = open {
                open.is_leaving = !taken[index];
            }
        }
        Ok(configs)
    }

    /// Takes over what an earlier worker had open, as far as it is configured still.
    pub(crate) fn recover(&mut self, journal: &Journal, tiers: &[Tier]) {
        for index in 0..self.open.len() {
            let Some(entry) = journal.tier(index) else { continue };
            let Some(file) = take_fd(entry.fd) else { continue };
            let tier = tiers.iter().find(|t| digest(t) == entry.digest).cloned();
            // One that is configured no more may still hold pages.
            let is_leaving = tier.is_none();
            let tier = tier.unwrap_or(Tier::Lz4 { size: 0 });
            self.open[index] = Some(Open { tier, file: Arc::new(File::from(file).into()), is_leaving });
        }
    }

    /// Closes a tier that is configured no more and that the core does not use any more.
    pub(crate) fn close_unused(&mut self, journal: &Journal, is_used: impl Fn(TierId) -> bool) {
        for (index, slot) in self.open.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|o| o.is_leaving) && !is_used(TierId(index as u8)) {
                journal.clear_tier(index);
                *slot = None;
            }
        }
    }

    /// Gives the file of a tier.
    ///
    /// # Errors
    /// `ENXIO` if there is none.
    pub(crate) fn file(&self, tier: TierId) -> io::Result<&Arc<TierFile>> {
        let open = self.open.get(usize::from(tier.0)).and_then(Option::as_ref);
        open.map(|o| &o.file).ok_or_else(|| io::Error::from_raw_os_error(libc::ENXIO))
    }

    /// Reads neighbouring pages of a file tier.
    ///
    /// # Errors
    /// Those of `pread`; `UnexpectedEof`.
    pub(crate) fn read_file(&self, tier: TierId, index: u32, pages: &mut [u8]) -> io::Result<()> {
        self.file(tier)?.read_exact_at(pages, u64::from(index) * PAGE_SIZE)
    }

    /// Reads one page from where the core says that it is; not from staging.
    ///
    /// # Errors
    /// Those of reading; `InvalidData` if compressed data is damaged.
    pub(crate) fn read(&self, source: Source, page: &mut [u8]) -> io::Result<()> {
        match source {
            Source::Zero | Source::Stage(_) => page.fill(0),
            Source::File { tier, index } => self.read_file(tier, index, page)?,
            Source::Pool { tier, offset, len } => {
                let mut buffer = [0u8; 2 * PAGE];
                let bytes = buffer.get_mut(..len as usize).ok_or(io::ErrorKind::InvalidData)?;
                self.file(tier)?.read_exact_at(bytes, offset)?;
                let n = lz4_flex::block::decompress_into(bytes, page)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                if n != page.len() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    /// Writes pages to neighbouring places of a file tier.
    ///
    /// # Errors
    /// As [`TierFile::write_pages`].
    pub(crate) fn write_file(&self, tier: TierId, index: u32, pages: &[u8]) -> io::Result<()> {
        self.file(tier)?.write_pages(index, pages)
    }

    /// Writes compressed bytes into a pool.
    ///
    /// # Errors
    /// Those of `pwrite`.
    pub(crate) fn write_pool(&self, tier: TierId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(tier)?.write_all_at(bytes, offset)
    }

    /// Gives a range of a pool back to the host.
    pub(crate) fn punch(&self, tier: TierId, offset: u64, len: u64) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if let Ok(file) = self.file(tier) {
            let _ = fallocate(file.as_fd(), flags, offset.cast_signed(), len.cast_signed());
        }
    }
}

fn open(tier: &Tier) -> io::Result<OwnedFd> {
    match tier {
        Tier::Lz4 { .. } => SharedWords::memory_file("compartment-pool", POOL_BYTES / 8),
        Tier::File { dir, .. } => swap_file(dir),
    }
}

/// As large as a pool may become, sparse.
const POOL_BYTES: usize = 1 << 36;

/// Makes a file without a name that nobody else can open, past the page cache where that is possible.
fn swap_file(dir: &Path) -> io::Result<OwnedFd> {
    let open = |flags: i32| {
        File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | flags).open(dir)
    };
    let file = open(libc::O_DIRECT).or_else(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => open(0),
        _ => Err(e),
    })?;
    Ok(file.into())
}

/// Compresses a page into `out`; gives the length, or nothing where that is not worth it.
pub(crate) fn compress(page: &[u8], out: &mut [u8; 2 * PAGE]) -> Option<usize> {
    let len = lz4_flex::block::compress_into(page, out).ok()?;
    (len < PAGE).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uffd::held::Held;

    fn page(fill: u8) -> Vec<u8> {
        (0..PAGE).map(|i| fill.wrapping_add((i / 64) as u8)).collect()
    }

    fn pages(of: &[Vec<u8>]) -> Pages {
        let mut pages = Pages::new(of.len());
        pages.range_mut(0..of.len()).copy_from_slice(&of.concat());
        pages
    }

    #[test]
    fn pages_come_back_from_both_kinds_of_tier() {
        let journal = Held::new().and_then(|h| h.journal()).expect("memory files");
        let mut store = Store::default();
        let dir = tempfile::tempdir().expect("a directory");
        let tiers = [Tier::Lz4 { size: 1 << 20 }, Tier::File { size: 1 << 20, dir: dir.path().into() }];

        let configs = store.configure(&journal, &tiers).expect("opened");
        assert_eq!(configs[1].store, TierStore::File { slots: 256 });
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "the file has no name");

        let (a, b) = (page(1), page(2));
        let both = pages(&[a.clone(), b]);
        store.write_file(configs[1].id, 5, both.range(0..2)).expect("written");
        let mut back = Pages::new(2);
        store.read_file(configs[1].id, 5, back.range_mut(0..2)).expect("read");
        assert_eq!(back.range(0..2), both.range(0..2));

        let mut bytes = [0; 8192];
        let len = compress(&a, &mut bytes).expect("compressible");
        store.write_pool(configs[0].id, 640, &bytes[..len]).expect("written");
        let source = Source::Pool { tier: configs[0].id, offset: 640, len: len as u32 };
        store.read(source, back.range_mut(1..2)).expect("read");
        assert_eq!(back.page(1), a);
    }

    #[test]
    fn later_worker_has_the_same_tiers() {
        let journal = Held::new().and_then(|h| h.journal()).expect("memory files");
        let mut store = Store::default();
        let dir = tempfile::tempdir().expect("a directory");
        let tiers = [Tier::File { size: 1 << 20, dir: dir.path().into() }];
        let before = store.configure(&journal, &tiers).expect("opened");
        store.write_file(before[0].id, 0, pages(&[page(7)]).page(0)).expect("written");
        std::mem::forget(store);

        let mut later = Store::default();
        later.recover(&journal, &tiers);
        assert_eq!(later.configure(&journal, &tiers).expect("opened"), before);
        let mut back = Pages::new(1);
        later.read_file(before[0].id, 0, back.range_mut(0..1)).expect("read");
        assert_eq!(back.page(0), page(7));
    }

    #[test]
    fn directory_that_is_none_is_refused() {
        let journal = Held::new().and_then(|h| h.journal()).expect("memory files");
        let tiers = [Tier::File { size: 4096, dir: "/nowhere".into() }];

        let refused = Store::default().configure(&journal, &tiers);

        assert_eq!(refused.map_err(|(_, e)| e.kind()), Err(io::ErrorKind::NotFound));
    }
}
