//! A device as the kernel sees it: a file system of one file, served through FUSE.
//! Each request is handed to the [`Device`]; nothing is decided here.

use super::active::{Active, Done, Fault};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, SessionACL, TimeOrNow,
    WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Name of the one file.
pub const FILE: &str = "device";
/// Largest write or read the kernel sends at once, bytes.
pub const REQUEST_MAX_BYTES: usize = 1 << 20;

const THREADS: usize = 4;
const BACKGROUND_MAX: u16 = 128;
/// The attributes change only when a device grows, and the kernel is told then.
const TTL: Duration = Duration::from_secs(3600);
const FILE_INODE: INodeNo = INodeNo(2);

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

thread_local! {
    /// A buffer per serving thread, allocated once: memory pressure must not stop a read.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; REQUEST_MAX_BYTES]);
}

impl From<Fault> for Errno {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused => Errno::EINVAL,
            Fault::Failed => Errno::EIO,
        }
    }
}

/// What is served: the active's volume, or a snapshot.
pub trait Device: Send + Sync + 'static {
    /// Size, bytes.
    fn size_bytes(&self) -> u64;
    /// Reads.
    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), Fault>;
    /// Writes.
    fn write(&self, data: &[u8], offset: u64, done: Done);
    /// Makes a range zero and gives its space back.
    fn punch(&self, offset: u64, length: u64, done: Done);
    /// Makes what was answered durable.
    fn flush(&self, done: Done);
}

impl Device for Active {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.read(into, offset)
    }

    fn write(&self, data: &[u8], offset: u64, done: Done) {
        self.write(data, offset, done);
    }

    fn punch(&self, offset: u64, length: u64, done: Done) {
        self.punch(offset, length, done);
    }

    fn flush(&self, done: Done) {
        self.flush(done);
    }
}

/// Serves a device below a mountpoint until it is unmounted.
pub fn serve(device: Arc<dyn Device>, point: &Path, volume: &str) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config.acl = SessionACL::All;
    config.mount_options = vec![
        MountOption::FSName(format!("thermidor-{volume}")),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
    ];
    fuser::spawn_mount(Export { device }, point, &config)
}

/// Has the kernel ask for the size anew.
pub fn resized(notifier: &Notifier) -> io::Result<()> {
    // From no offset on: the attributes only.
    notifier.inval_inode(FILE_INODE, -1, 0)
}

struct Export {
    device: Arc<dyn Device>,
}

impl Export {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode == INodeNo::ROOT;
        let size = if root { 0 } else { self.device.size_bytes() };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root { FileType::Directory } else { FileType::RegularFile },
            perm: if root { 0o500 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Export {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // An older kernel may refuse some of these; the device works without, only slower.
        let refused = |what: &str| tracing::info!(what, "the kernel's FUSE does not offer this");
        if kernel.add_capabilities(InitFlags::FUSE_ASYNC_DIO).is_err() {
            refused("asynchronous direct I/O");
        }
        if kernel.set_max_background(BACKGROUND_MAX).is_err() {
            refused("128 requests in the background");
        }
        if kernel.set_congestion_threshold(BACKGROUND_MAX).is_err() {
            refused("a congestion threshold of 128");
        }
        if kernel.set_max_write(REQUEST_MAX_BYTES as u32).is_err() {
            refused("writes of 1 MiB");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE {
            reply.entry(&TTL, &self.attributes(FILE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::empty());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE_INODE, FileType::RegularFile, FILE),
        ];
        for (number, (inode, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
            if reply.add(inode, number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = self.device.size_bytes().min(offset.saturating_add(u64::from(size)));
        let length = (end.saturating_sub(offset) as usize).min(REQUEST_MAX_BYTES);
        BUFFER.with_borrow_mut(|buffer| match self.device.read(&mut buffer[..length], offset) {
            Ok(()) => reply.data(&buffer[..length]),
            Err(fault) => reply.error(fault.into()),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let length = data.len() as u32;
        let done = move |outcome: Result<(), Fault>| match outcome {
            Ok(()) => reply.written(length),
            Err(fault) => reply.error(fault.into()),
        };
        self.device.write(data, offset, Box::new(done));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != PUNCH_HOLE && mode & ZERO_RANGE == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.device.punch(offset, length, answer(reply));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.device.flush(answer(reply));
    }
}

/// Answered from wherever the last member's word arrives: no serving thread waits.
fn answer(reply: ReplyEmpty) -> Done {
    Box::new(move |outcome| match outcome {
        Ok(()) => reply.ok(),
        Err(fault) => reply.error(fault.into()),
    })
}
