//! A radiator's own disk: a file system in a file. It is as small as asked for, and when its power is
//! cut it holds what was made to reach it and nothing else: no page cache survives.

use super::command::LabError;
use super::machine::Machine;
use std::path::Path;

/// `EXT4_IOC_SHUTDOWN` without a last write of the journal: the file system stops as it is on the disk.
const CUT: &str = r#"my $how = pack("L", 2);
open(my $disk, "<", $ARGV[0]) or die "open $ARGV[0]: $!";
ioctl($disk, 0x8004587d, $how) or die "cut $ARGV[0]: $!";"#;

/// A script that mounts the disk at a folder; the first time it is made.
pub fn mount_script(disk: &Path, mib: u64, folder: &Path) -> String {
    let (disk, folder) = (disk.display(), folder.display());
    format!(
        "[ -e {disk} ] || {{ truncate -s {mib}M {disk}.part; mkfs.ext4 -q -m 0 -F {disk}.part; \
         mv {disk}.part {disk}; }}\n\
         mount -o loop {disk} {folder}"
    )
}

/// Nothing more is written to the disk mounted there, and what the kernel still held for it is lost.
pub fn cut(machine: &Machine, folder: &Path) -> Result<(), LabError> {
    super::command::output(machine.command("perl").args(["-e", CUT]).arg(folder)).map(drop)
}
