//! What is attached to an interface, asked of the kernel over rtnetlink. The attachment itself must not be made before
//! this says that nobody else's program is there.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// linux/rtnetlink.h, linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
const INTERFACE_BYTES: usize = 16;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OnInterface {
    /// The program's id; zero if there are several (native and generic).
    pub program: u32,
    /// Whether it runs in the slow generic mode.
    pub is_generic: bool,
}

/// The XDP program on the interface with this index, if there is one.
pub(super) fn xdp_program(if_index: u32) -> io::Result<Option<OnInterface>> {
    let answer = ask(if_index)?;
    let (header, body) = answer.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
    if u16::from_ne_bytes([header[4], header[5]]) != RTM_NEWLINK {
        return Err(io::Error::other("the kernel refused to describe the interface"));
    }
    let attributes = body.get(INTERFACE_BYTES..).ok_or_else(short)?;
    let Some(xdp) = find(attributes, IFLA_XDP) else { return Ok(None) };
    let mode = find(xdp, IFLA_XDP_ATTACHED).and_then(|mode| mode.first().copied()).unwrap_or(0);
    if mode == 0 {
        return Ok(None);
    }
    let program = find(xdp, IFLA_XDP_PROG_ID).and_then(|id| id.first_chunk()).map_or(0, |id| u32::from_ne_bytes(*id));
    Ok(Some(OnInterface { program, is_generic: mode == XDP_ATTACHED_SKB }))
}

fn ask(if_index: u32) -> io::Result<Vec<u8>> {
    let socket: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + INTERFACE_BYTES);
    request.extend(((HEADER_BYTES + INTERFACE_BYTES) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    request.extend(if_index.to_ne_bytes());
    request.extend([0; 8]);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// The payload of the first attribute of this type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(header) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_TYPE_MASK;
        let payload = attributes.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's answer is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_on_the_loopback_of_a_test_machine() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!(xdp_program(index).unwrap(), None);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error() {
        assert!(xdp_program(u32::MAX >> 1).is_err());
    }

    #[test]
    fn attributes_that_lie_about_their_length_end_the_search() {
        assert_eq!(find(&[200, 0, 43, 0, 1], 43), None);
        assert_eq!(find(&[0, 0, 1, 0], 43), None);
        assert_eq!(find(&[5, 0, 1, 0, 9, 0, 0, 0, 5, 0, 43, 0, 7], 43), Some(&[7][..]));
    }
}
