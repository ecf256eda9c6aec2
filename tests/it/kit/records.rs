//! Records on a volume that another than volseed wrote: an app that owns the volume's root can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Writes a record with the checksum that volseed expects; directories above it are ours alone.
pub fn plant(volume: &Path, name: &str, mut fields: Value) {
    let mut sum = flate2::Crc::new();
    sum.update(fields.to_string().as_bytes());
    fields["checksum"] = format!("crc32:{:08x}", sum.sum()).into();
    fs::write(place(volume, name), fields.to_string()).unwrap();
}

/// Writes the heartbeat of the claim 1.
pub fn plant_heartbeat(volume: &Path, fields: Value) {
    fs::write(place(volume, "claims/1/heartbeat"), fields.to_string()).unwrap();
}

/// Where something of volseed's is on the volume. The directories above it are made.
pub fn place(volume: &Path, name: &str) -> PathBuf {
    let path = volume.join(".volseed").join(name);
    let above = path.parent().unwrap();
    fs::create_dir_all(above).unwrap();
    for directory in above.ancestors().take_while(|directory| *directory != volume) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    path
}

/// `state.json` of a seed with the top-level entry `x`, with these fields in place of its own.
pub fn complete(fields: Value) -> Value {
    let totals = json!({"files": 1, "directories": 0, "links": 0, "bytes": 1});
    let record = json!({
        "format": 1, "generation": 1, "version": null, "epoch": 1, "origin": "seeded", "source": "x",
        "totals": totals, "top": ["x"], "finished": 0, "volseed": "0.1.0",
    });
    with(record, fields)
}

/// `claim.json` of the claim 1, whose holder is another kernel's and silent, with these fields.
pub fn holder(fields: Value) -> Value {
    let record = json!({
        "format": 1, "epoch": 1, "nonce": "planted", "host": "other", "container": null, "pid": 1,
        "since": 0, "boot": "another", "device": 0, "locked": false,
    });
    with(record, fields)
}

fn with(mut record: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}
