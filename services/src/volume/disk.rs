//! Carries out what the protocol wants of the local image. Stores go to the page cache at once;
//! whatever waits for the disk has a thread of its own, and its answer comes back as an event.

use super::image::Image;
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use thermidor_model::replication::scrub::Record;
use thermidor_model::replication::{LocalEffect, LocalEvent};

/// Jobs waiting for one of the threads: the protocol has a few outstanding at most.
const JOBS_MAX: usize = 256;

/// Something that waits for the disk, and what to do with its answer.
type Job = Box<dyn FnOnce(&Image) + Send>;

/// The image's threads.
#[derive(Debug)]
pub struct Disk {
    image: Arc<Image>,
    /// First for `fdatasync`, then for marks and headers, then for hashing, then for the search for bit rot.
    queues: Vec<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// The first error's words, for the header.
    words: Arc<Mutex<String>>,
    headers: Headers,
    /// Where how far the search for bit rot is, is kept.
    progress: PathBuf,
}

/// Two threads write headers; an older one must not come after a newer one.
#[derive(Debug, Default)]
struct Headers {
    given: AtomicU64,
    written: Arc<Mutex<u64>>,
}

impl Headers {
    /// A way to write the header given now, unless a newer one was written meanwhile.
    fn writer(&self) -> impl FnOnce(&Image, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> + use<> {
        let (stamp, written) = (self.given.fetch_add(1, Ordering::Relaxed) + 1, self.written.clone());
        move |image, write| {
            let mut newest = written.lock().unwrap_or_else(PoisonError::into_inner);
            if stamp > *newest {
                *newest = stamp;
                write()
            } else {
                // What the newer one holds has to be as durable as this one was to be.
                image.sync()
            }
        }
    }
}

const SYNCS: usize = 0;
const MARKS: usize = 1;
const HASHES: usize = 2;
const SCRUBS: usize = 3;

/// What is wrong with the disk, for people.
pub(super) fn fault(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: once there is room, the replica is made anew by itself".into()
        }
        _ => format!("the disk failed: {error}"),
    }
}

fn work(image: &Image, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job(image);
    }
}

impl Disk {
    /// Starts the threads over an image; how far the search for bit rot is, is kept in `progress`.
    pub fn start(image: Arc<Image>, progress: PathBuf) -> io::Result<Self> {
        let mut disk = Self {
            image: image.clone(),
            queues: vec![],
            threads: vec![],
            words: Arc::default(),
            headers: Headers::default(),
            progress,
        };
        for name in ["volume-sync", "volume-mark", "volume-hash", "volume-scrub"] {
            let (queue, jobs) = sync_channel(JOBS_MAX);
            let image = image.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&image, &jobs))?;
            disk.queues.push(queue);
            disk.threads.push(thread);
        }
        // After everything else that wants the processor; its turn at the disk follows from that.
        disk.queue(SCRUBS, |_| {
            if let Err(e) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(error = %e, "the search for bit rot has a common priority");
            }
        });
        Ok(disk)
    }

    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The first error's words; empty: none.
    pub fn words(&self) -> String {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Carries out an effect. What is done at once is answered at once; the rest through `answer`.
    pub fn carry_out(
        &self,
        effect: LocalEffect,
        payload: &Bytes,
        answer: impl FnOnce(LocalEvent) + Send + 'static,
    ) -> Option<LocalEvent> {
        let words = self.words.clone();
        let finish = move |done: io::Result<()>, event| match done {
            Ok(()) => event,
            Err(e) => {
                let error = fault(&e);
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                if words.is_empty() {
                    words.clone_from(&error);
                }
                LocalEvent::Failed { error }
            }
        };
        let words = self.words();
        match effect {
            LocalEffect::Store { id, op } => {
                return Some(finish(self.image.store(&op, payload), LocalEvent::Stored { id }));
            }
            LocalEffect::Sync { id, header } => {
                let header = header.map(|header| (header, self.headers.writer()));
                self.queue(SYNCS, move |image| {
                    let noted = header.map_or(Ok(()), |(header, writer)| {
                        writer(image, &mut || image.note(|h| h.image = header.clone()))
                    });
                    answer(finish(noted.and_then(|()| image.sync()), LocalEvent::Synced { id }));
                });
            }
            LocalEffect::Mark { mark, unmark, note, forget } => self.queue(MARKS, move |image| {
                let done = image.chart(&note, &forget).and_then(|()| image.mark(&mark, &unmark));
                answer(finish(done, LocalEvent::Marked));
            }),
            LocalEffect::SaveHeader { header, note } => {
                let writer = self.headers.writer();
                self.queue(MARKS, move |image| {
                    let mut save = || {
                        if header.torn {
                            image.unseal()?;
                        }
                        image.save(&header, &words)
                    };
                    let done = image.chart(&note, &[]).and_then(|()| writer(image, &mut save));
                    answer(finish(done, LocalEvent::HeaderSaved));
                });
            }
            LocalEffect::Examine { id, extent } => self.queue(SCRUBS, move |image| {
                answer(LocalEvent::Examined { id, found: image.examine(extent) });
            }),
            LocalEffect::Seal { extent, hash } => self.queue(MARKS, move |image| {
                // Without one there is less to judge by, no more.
                if let Err(e) = image.seal(extent, &hash) {
                    tracing::warn!(extent, error = %e, "an extent could not be sealed");
                }
            }),
            LocalEffect::Note(record) => {
                let progress = self.progress.clone();
                self.queue(SCRUBS, move |_| super::scrub::note(&progress, &record));
            }
        }
        None
    }

    /// Hashes extents of the image, each as a whole.
    pub fn hash(
        &self,
        extents: Vec<u64>,
        answer: impl FnOnce(io::Result<Vec<(u64, [u8; 32])>>) + Send + 'static,
    ) {
        self.queue(HASHES, move |image| {
            let hashes = extents.into_iter().map(|extent| image.hash(extent).map(|hash| (extent, hash)));
            answer(hashes.collect());
        });
    }

    /// Reads an extent as it lies on the disk.
    pub fn read_extent(&self, extent: u64, answer: impl FnOnce(io::Result<Vec<u8>>) + Send + 'static) {
        self.queue(SCRUBS, move |image| answer(image.extent_on_platter(extent)));
    }

    /// How far the search for bit rot was, by whichever active.
    pub fn progress(&self) -> Record {
        super::scrub::noted(&self.progress)
    }

    fn queue(&self, queue: usize, job: impl FnOnce(&Image) + Send + 'static) {
        // The threads live as long as `self`: this fails only while one of them panics.
        if self.queues[queue].send(Box::new(job)).is_err() {
            tracing::error!("a disk thread of the volume has ended");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread of the volume panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use thermidor_model::replication::scrub::{Found, Seal};
    use thermidor_model::replication::{ImageHeader, Op, OpKind};
    use thermidor_model::{ReplicaId, VolumeName};

    #[test]
    fn stores_are_answered_at_once_and_the_disk_answers_later() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("mail").unwrap();
        let image = Image::create(&dir.path().join("image"), &name, ReplicaId(1), 1 << 20).unwrap();
        let disk = Disk::start(Arc::new(image), dir.path().join("scrub")).unwrap();
        let (told, hear) = channel();
        let op = Op { kind: OpKind::Write, offset: 0, len: 2 };
        let store = |op| disk.carry_out(LocalEffect::Store { id: 7, op }, &Bytes::from_static(b"ab"), |_| {});
        assert_eq!(store(op), Some(LocalEvent::Stored { id: 7 }));
        let header = ImageHeader { promised: 4, ..ImageHeader::new(name, ReplicaId(1), 1 << 20) };
        for effect in [
            LocalEffect::Sync { id: 8, header: None },
            LocalEffect::Mark { mark: vec![0], unmark: vec![], note: vec![0], forget: vec![] },
            LocalEffect::SaveHeader { header, note: vec![] },
        ] {
            let told = told.clone();
            let later = disk.carry_out(effect, &Bytes::new(), move |event| told.send(event).unwrap());
            assert_eq!(later, None);
        }
        drop(told);
        let answers: Vec<_> = hear.iter().take(3).collect();
        for answer in [LocalEvent::Synced { id: 8 }, LocalEvent::Marked, LocalEvent::HeaderSaved] {
            assert!(answers.contains(&answer), "{answer:?} in {answers:?}");
        }
        assert_eq!(disk.image().state().header.promised, 4);
        let outside = store(Op { offset: 1 << 20, ..op });
        assert!(matches!(outside, Some(LocalEvent::Failed { .. })));
        assert!(disk.words().contains("outside of the device"));
        let (told, hear) = channel();
        disk.hash(vec![0], move |hashes| told.send(hashes.unwrap()).unwrap());
        let mut bytes = vec![0; 1 << 20];
        bytes[..2].copy_from_slice(b"ab");
        assert_eq!(hear.recv().unwrap(), vec![(0, *blake3::hash(&bytes).as_bytes())]);
        let (told, hear) = channel();
        let look = LocalEffect::Examine { id: 9, extent: 0 };
        disk.carry_out(look, &Bytes::new(), move |event| told.send(event).unwrap());
        let hash = Some(*blake3::hash(&bytes).as_bytes());
        let found = Found { hash, seal: Seal::Absent };
        assert_eq!(hear.recv().unwrap(), LocalEvent::Examined { id: 9, found });
        let record = Record { pass: 3, ..Record::default() };
        disk.carry_out(LocalEffect::Note(record.clone()), &Bytes::new(), |_| {});
        let (told, hear) = channel();
        disk.read_extent(0, move |read| told.send(read.unwrap()).unwrap());
        assert_eq!(hear.recv().unwrap(), bytes);
        assert_eq!(disk.progress(), record);
    }

    #[test]
    fn an_older_header_does_not_undo_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("mail").unwrap();
        let image = Image::create(&dir.path().join("image"), &name, ReplicaId(1), 1 << 20).unwrap();
        let headers = Headers::default();
        let (older, newer) = (headers.writer(), headers.writer());
        let promise = |epoch| image.update(|h| h.image.promised = epoch);
        newer(&image, &mut || promise(5)).unwrap();
        older(&image, &mut || promise(4)).unwrap();
        assert_eq!(image.state().header.promised, 5);
        headers.writer()(&image, &mut || promise(6)).unwrap();
        assert_eq!(image.state().header.promised, 6);
    }
}
