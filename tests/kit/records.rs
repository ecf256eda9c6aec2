//! Records on a volume that another than volseed wrote: an app that owns the volume's root can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Writes a record with the checksum that volseed expects; directories above it are ours alone. With
/// `state.json` come both records of a complete volume, out of what the private one says.
pub(crate) fn plant(volume: &Path, name: &str, fields: Value) {
    if name != "state.json" {
        return fs::write(place(volume, name), summed(fields)).unwrap();
    }
    let private = summed(fields.clone());
    fs::write(place(volume, "state.json"), summed(public(&fields, private.as_bytes()))).unwrap();
    fs::write(place(volume, "record.json"), private).unwrap();
}

/// The public record that belongs to a private one, which is written as `bytes`.
pub(crate) fn public(private: &Value, bytes: &[u8]) -> Value {
    let salt = "00112233445566778899aabbccddeeff";
    let digest = |kind: &str, value: &[u8]| {
        let mut hasher = blake3::Hasher::new();
        for part in [salt.as_bytes(), kind.as_bytes(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().to_hex()[..16].to_owned()
    };
    let bytes_of = |value: &Value| match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Array(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap_or(0) as u8).collect(),
        _ => Vec::new(),
    };
    let top = private["top"].as_array().cloned().unwrap_or_default();
    let mut record = json!({
        "state": "complete", "salt": salt, "record": digest("record", bytes),
        "top": top.iter().map(|name| digest("top", &bytes_of(name))).collect::<Vec<_>>(),
    });
    for name in ["format", "origin", "epoch", "generation", "totals"] {
        if let Some(value) = private.get(name) {
            record[name] = value.clone();
        }
    }
    if let Some(first) = top.first() {
        record["present"] = first.clone();
    }
    if let Some(version) = private["version"].as_str() {
        record["version"] = digest("version", version.as_bytes()).into();
    }
    for (name, value) in private["settings"].as_object().into_iter().flatten() {
        record["settings"][name] = digest(name, &bytes_of(value)).into();
    }
    record
}

fn summed(mut fields: Value) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(fields.to_string().as_bytes());
    fields["checksum"] = format!("crc32:{:08x}", sum.sum()).into();
    fields.to_string()
}

/// Changes one field of a record that is there.
pub(crate) fn change(path: &Path, field: &str, value: Value) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("checksum");
    record[field] = value;
    fs::write(path, summed(record)).unwrap();
}

/// Writes the heartbeat of the claim 1.
pub(crate) fn plant_heartbeat(volume: &Path, fields: Value) {
    fs::write(place(volume, "claims/1/heartbeat"), fields.to_string()).unwrap();
}

/// Where something of volseed's is on the volume. The directories above it are made.
pub(crate) fn place(volume: &Path, name: &str) -> PathBuf {
    let path = volume.join(".volseed").join(name);
    let above = path.parent().unwrap();
    fs::create_dir_all(above).unwrap();
    for directory in above.ancestors().take_while(|directory| *directory != volume) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    path
}

/// The private record of a seed with the top-level entry `x`, with these fields in place of its own.
pub(crate) fn complete(fields: Value) -> Value {
    let totals = json!({"files": 1, "directories": 0, "links": 0, "bytes": 1});
    let record = json!({
        "format": 2, "generation": 1, "version": null, "epoch": 1, "origin": "seeded", "source": "x",
        "totals": totals, "top": ["x"], "finished": 0, "volseed": "0.1.0",
    });
    with(record, fields)
}

/// `claim.json` of the claim 1, whose holder is another kernel's and silent, with these fields.
pub(crate) fn holder(fields: Value) -> Value {
    let record = json!({
        "format": 2, "epoch": 1, "nonce": "planted", "host": "other", "container": null, "pid": 1,
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
