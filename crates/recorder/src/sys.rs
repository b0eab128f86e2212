//! The system calls that no crate of ours wraps: fanotify, file handles, shared memory, waiting for a signal.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::handle::{HANDLE_BYTES_MAX, Handle};

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_BYTES_MAX],
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a notification group.
pub fn fanotify_init(flags: u32) -> io::Result<OwnedFd> {
    let event_flags = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as u32;
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::fanotify_init(flags, event_flags) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds or removes a mark on what `object` is (its inode or its file system, as `flags` say).
pub fn fanotify_mark(group: BorrowedFd<'_>, flags: u32, mask: u64, object: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open while they are borrowed; a null path means the object itself.
    check(unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, object.as_raw_fd(), std::ptr::null()) })?;
    Ok(())
}

/// Asks for the file handle of an open object (`O_PATH` will do).
pub fn handle_of(object: BorrowedFd<'_>) -> io::Result<Handle> {
    let mut raw = RawHandle { bytes: HANDLE_BYTES_MAX as u32, kind: 0, data: [0; HANDLE_BYTES_MAX] };
    let mut mount_id = 0;
    // SAFETY: `raw` has the layout of struct file_handle and says how much room it has; the name is empty and
    // terminated; both outlive the call.
    check(unsafe {
        libc::name_to_handle_at(
            object.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast::<libc::file_handle>(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    })?;
    let bytes = raw.data.get(..raw.bytes as usize).ok_or(io::ErrorKind::InvalidData)?;
    Handle::new(raw.kind, bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Opens an object by its handle; `mount` is any open (not `O_PATH`) object of the same mount.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: &Handle, flags: i32) -> io::Result<OwnedFd> {
    let bytes = handle.bytes();
    let mut raw = RawHandle { bytes: bytes.len() as u32, kind: handle.kind(), data: [0; HANDLE_BYTES_MAX] };
    raw.data[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `raw` has the layout of struct file_handle, is filled up to `bytes`, and outlives the call.
    let fd = check(unsafe {
        libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast::<libc::file_handle>(), flags | libc::O_CLOEXEC)
    })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct fsuuid2` of `FS_IOC_GETFSUUID`.
#[repr(C)]
struct RawUuid {
    length: u8,
    uuid: [u8; 16],
}

/// `_IOR(0x15, 0, struct fsuuid2)`, since Linux 6.9.
const FS_IOC_GETFSUUID: u32 = 0x8011_1500;

/// How a file system names itself, the same after every mount: `uuid:` or `fsid:` and hexadecimal digits; `None` where
/// the kernel does not tell.
pub fn filesystem_name(object: BorrowedFd<'_>) -> Option<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut raw = RawUuid { length: 0, uuid: [0; 16] };
    // SAFETY: the request writes at most a struct fsuuid2, which `raw` is, and it outlives the call.
    let told = unsafe { libc::ioctl(object.as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut raw) };
    if told == 0 && raw.uuid != [0; 16] {
        return Some(format!("uuid:{}", hex(raw.uuid.get(..usize::from(raw.length))?)));
    }
    // SAFETY: an all-zero statfs is valid memory, and the call fills it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open while it is borrowed, and `stat` outlives the call.
    check(unsafe { libc::fstatfs(object.as_raw_fd(), &raw mut stat) }).ok()?;
    // SAFETY: fsid_t is two integers without padding.
    let fsid: [u8; 8] = unsafe { std::mem::transmute(stat.f_fsid) };
    // That of XFS is its device number.
    (stat.f_type != libc::XFS_SUPER_MAGIC && fsid != [0; 8]).then(|| format!("fsid:{}", hex(&fsid)))
}

/// The signals that ask the process to stop, held back from every thread so that [`StopSignals::wait`] gets them.
pub struct StopSignals(libc::sigset_t);

impl StopSignals {
    /// Holds SIGTERM and SIGINT back; to be called before any thread is started.
    pub fn block() -> io::Result<StopSignals> {
        // SAFETY: an all-zero sigset_t is valid memory, and sigemptyset initialises it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is ours and lives through the calls.
        let error = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if error == 0 { Ok(StopSignals(set)) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// Waits for one of them.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to our own memory.
        while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {}
    }
}

/// A memory file mapped as long as this lives, shared with every process that has its descriptor.
///
/// The bytes are only touched through copies and atomic numbers; no reference to them is ever given out.
#[derive(Debug)]
pub struct Shared {
    begin: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is plain memory; concurrent access is by atomic numbers, and to the rest by whoever owns the ring in it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the first `bytes` of a memory file, which must be sealed against shrinking.
    pub fn map(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Shared> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
        let begin = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0) };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let begin = NonNull::new(begin.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { begin, bytes })
    }

    /// The number at an offset that is a multiple of 8.
    pub fn number(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.bytes, "a number outside of the memory");
        // SAFETY: inside of the mapping and aligned, see above; it lives as long as `self`; everybody uses atomics.
        unsafe { AtomicU64::from_ptr(self.begin.as_ptr().add(at).cast()) }
    }

    /// Makes bytes zero, which also brings their pages into memory.
    pub fn clear(&self, range: Range<usize>) {
        let length = self.check(&range);
        // SAFETY: inside of the mapping.
        unsafe { std::ptr::write_bytes(self.begin.as_ptr().add(range.start), 0, length) }
    }

    /// Writes bytes.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let length = self.check(&(at..at + bytes.len()));
        // SAFETY: inside of the mapping, which `bytes` is not a part of.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.begin.as_ptr().add(at), length) }
    }

    /// Copies bytes to the end of `out`.
    pub fn copy(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let length = self.check(&range);
        let before = out.len();
        out.resize(before + length, 0);
        // SAFETY: both are as long as `length`, and do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(self.begin.as_ptr().add(range.start), out[before..].as_mut_ptr(), length);
        }
    }

    /// Lets the kernel write what it reads from `file` right there: nothing is lost when the process ends meanwhile.
    pub fn read_from(&self, file: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize> {
        let length = self.check(&range);
        // SAFETY: inside of the mapping.
        let read = unsafe { libc::read(file.as_raw_fd(), self.begin.as_ptr().add(range.start).cast(), length) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    fn check(&self, range: &Range<usize>) -> usize {
        assert!(range.start <= range.end && range.end <= self.bytes, "bytes outside of the memory");
        range.end - range.start
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference into it is left.
        unsafe { libc::munmap(self.begin.as_ptr().cast(), self.bytes) };
    }
}

/// Takes a descriptor that the process was started with.
///
/// # Errors
/// Where it is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers; it fails where the number is not open, and keeps programs that are started later
    // from inheriting it.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and only the code that reads what systemd passed calls this, once a number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
