//! Archives that are cut off, damaged or not true about themselves: nothing of them is ever seen.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use tar::EntryType;

use crate::archives_refused::{begun, refused};
use crate::kit::{Compression, Sandbox, Tarball, assert_nothing_published, seed};

/// An archive file whose member of this type claims, and has, 64 MiB of zeros.
fn oversize(path: &Path, kind: EntryType, begin: &[u8]) {
    let size = 64 << 20;
    let header =
        Tarball::new().member(kind, "long", "", "").edit(|header| header.set_size(size)).unfinished();
    let mut file = File::create(path).unwrap();
    file.write_all(&header).unwrap();
    file.write_all(begin).unwrap();
    file.set_len(512 + size).unwrap();
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(&Tarball::new().file("a", "a").build()).unwrap();
}

#[test]
fn extended_headers_of_any_size_are_refused_and_not_kept_in_memory() {
    for (kind, begin) in [
        (EntryType::XHeader, &b"67108864 comment="[..]),
        (EntryType::XGlobalHeader, b"67108864 comment="),
        (EntryType::GNULongName, b"name"),
        (EntryType::GNULongLink, b"link"),
    ] {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        oversize(&sandbox.path("seed.tar"), kind, begin);
        seed(sandbox.path("seed.tar"), &volume).ends().exits(65).says("error: ");
        assert_nothing_published(&volume);
    }
}

#[test]
fn broken_extended_records_are_refused() {
    for records in [
        "12 path=a\n",
        "path=a\n",
        "99999999999999999999 path=a\n",
        "0 path=a\n",
        "9 path=a\n9 path",
        "-9 path=a\n",
    ] {
        let broken = begun().member(EntryType::XHeader, "pax", "", records).file("member", "x");
        refused(broken.build(), "error: ");
    }
}

#[test]
fn an_archive_that_stops_early_is_refused() {
    let whole = begun().file("long", "x".repeat(2_000)).unfinished();
    for length in [1, 100, 511, 512, 1_000, 1_536, whole.len() - 2_048, whole.len() - 1_000, whole.len()] {
        refused(whole[..length].to_vec(), "error: ");
    }
}

#[test]
fn a_packed_archive_that_stops_early_is_refused() {
    for packing in Compression::COMPRESSED {
        let Some(packed) = packing.pack(&begun().build()) else {
            continue;
        };
        for missing in [1, 4, packed.len() / 2] {
            refused(packed[..packed.len() - missing].to_vec(), "error: ");
        }
    }
}

#[test]
fn a_packed_archive_whose_check_does_not_match_is_refused() {
    // How far before the end a byte of the check stands in each packing.
    for (packing, from_end) in
        [(Compression::Gzip, 8), (Compression::Gzip, 1), (Compression::Zstd, 1), (Compression::Bzip2, 4)]
    {
        let Some(mut packed) = packing.pack(&begun().build()) else {
            continue;
        };
        let at = packed.len() - from_end;
        packed[at] ^= 0x10;
        refused(packed, "error: ");
    }
}

#[test]
fn a_packed_archive_with_a_flipped_byte_within_is_refused() {
    let noise: Vec<u8> =
        (0..20_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for packing in Compression::COMPRESSED {
        let Some(mut packed) = packing.pack(&begun().file("noise", &noise).build()) else {
            continue;
        };
        let middle = packed.len() / 2;
        packed[middle] ^= 0x01;
        refused(packed, "error: ");
    }
}

#[test]
fn a_header_whose_checksum_does_not_match_is_refused() {
    refused(begun().file("member", "x").damage(|bytes| bytes[0] = b'M').build(), "error: ");
    refused(begun().file("member", "x").damage(|bytes| bytes[148..156].fill(b'?')).build(), "error: ");
}

#[test]
fn a_size_that_is_not_true_is_refused() {
    let with_size =
        |size: u64| begun().file("member", "x".repeat(1_500)).edit(move |header| header.set_size(size));
    for size in [10, 1_000_000, u64::MAX >> 1, u64::MAX] {
        refused(with_size(size).build(), "error: ");
    }
    let garbage = begun().file("member", "x").edit(|header| header.as_old_mut().size = *b"12345678zzz\0");
    refused(garbage.build(), "error: ");
    for size in [&b"1000000"[..], b"-1", b"18446744073709551616", b"x"] {
        refused(begun().pax(&[("size", size)]).file("member", "x").build(), "error: ");
    }
}

#[test]
fn garbage_after_a_member_is_refused() {
    let mut archive = begun().unfinished();
    archive.extend_from_slice(&[0xaa; 2_048]);
    refused(archive, "error: ");
}

#[test]
fn a_sparse_map_that_is_not_true_is_refused() {
    let sparse = |map: &[u8], real: &[u8]| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.map", map),
            ("GNU.sparse.size", real),
        ];
        begun().pax(&records).file("sparse", "x".repeat(512)).build()
    };
    for map in [&b"0,600"[..], b"0,512,100,10", b"512,512,0,0", b"0", b"x,y", b"0,18446744073709551615", b""]
    {
        refused(sparse(map, b"1000"), "sparse");
    }
    refused(sparse(b"0,512", b"100"), "sparse");
}
