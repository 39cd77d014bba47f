//! The bytes of rules against those that the kernel's headers give, and what the kernel tells of tables.

use std::io;

use super::super::rules::tests::full;
use super::*;

fn owner() -> Owner {
    Owner { workload: "cart-1".to_owned(), pid: 7, started: 8, space: 9 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `golden.c` says where the bytes come from.
#[test]
#[cfg(target_endian = "little")]
fn a_plan_is_written_as_the_headers_of_the_kernel_say() {
    let mut batch = Batch::begin();
    batch.remove_table("transept_cart-1");
    batch.add_table("transept_cart-1", &owner());
    batch.add_rules("transept_cart-1", &full().rules());
    batch.messages.acknowledge_last();
    batch.frame(NFNL_MSG_BATCH_END);
    let mut rest = batch.messages.bytes();
    let golden: Vec<&str> = include_str!("golden.hex").lines().collect();
    assert_eq!(batch.doing.len(), golden.len());
    for (expected, doing) in golden.iter().zip(&batch.doing) {
        let length = u32::from_ne_bytes(*rest.first_chunk().unwrap()) as usize;
        let (message, after) = rest.split_at(length);
        assert_eq!(&hex(message), expected, "{doing}");
        rest = after;
    }
    assert!(rest.is_empty());
}

/// The kernel tells of a table with the attributes that made it.
#[test]
fn a_table_is_read_back_with_its_owner() {
    let mut batch = Batch::begin();
    batch.add_table("transept_cart-1", &owner());
    let answer = netlink::answers(batch.messages.bytes()).nth(1).unwrap();
    let table = read_table(&answer.body[NFGENMSG..]).unwrap();
    assert_eq!((table.name.as_str(), table.owner), ("transept_cart-1", owner()));
    for length in 0..answer.body.len() {
        let _ = read_table(&answer.body[..length]);
    }
}

#[test]
fn tables_of_others_are_not_ours_and_those_without_userdata_have_no_known_owner() {
    let mut batch = Batch::begin();
    batch.remove_table("filter");
    batch.remove_table("transept_cart-1");
    let read = |number| {
        let bytes = netlink::answers(batch.messages.bytes()).nth(number).unwrap().body;
        read_table(&bytes[NFGENMSG..])
    };
    assert!(read(1).is_none());
    assert_eq!(read(3).unwrap().owner, Owner::unknown("cart-1"));
}

#[test]
fn userdata_that_is_not_ours_is_passed_over() {
    assert_eq!(read_comment(&[7, 2, 1, 1, 0, 3, b'a', b'b', 0]), Some("ab"));
    for bytes in [&[][..], &[0], &[0, 9, b'a'], &[7, 0], &[0, 1, 0xff]] {
        assert_eq!(read_comment(bytes), None, "{bytes:?}");
    }
}

#[test]
fn errors_of_the_kernel_become_sentences() {
    let decode = |errno: Errno| decode("the rule", io::Error::from_raw_os_error(errno.raw_os_error()));
    assert!(matches!(decode(Errno::PERM), CaptureError::NotPermitted));
    assert!(decode(Errno::PERM).to_string().contains("CAP_NET_ADMIN"));
    for errno in [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT] {
        assert!(matches!(decode(errno), CaptureError::Unsupported(_)));
        assert!(decode(errno).to_string().contains("nft_redir"));
    }
    assert!(decode(Errno::BUSY).to_string().starts_with("the rule: "));
}
