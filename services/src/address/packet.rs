//! One frame out of one interface. The only unsafe code of this module's family: neither std,
//! rustix nor socket2 makes a link-layer address, and it is one zeroed C struct.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sends a whole Ethernet frame. Needs CAP_NET_RAW.
#[allow(unsafe_code)]
pub fn send(index: u32, ethertype: u16, frame: &[u8]) -> io::Result<()> {
    // SAFETY: plain system call; its result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = ethertype.to_be();
    to.sll_ifindex = index as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(frame.get(..6).ok_or(io::ErrorKind::InvalidInput)?);
    // SAFETY: both pointers are valid for the lengths given, for the length of the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    match usize::try_from(sent) {
        Ok(count) if count == frame.len() => Ok(()),
        Ok(count) => Err(io::Error::other(format!("{count} of {} bytes went out", frame.len()))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
