//! Runs that are kept.

use std::fs;
use std::path::PathBuf;

use vfsrun_layers::KeptRecord;

use super::World;

/// A run that wrote something and is kept; its id.
pub fn keep(world: &World, record: &KeptRecord) -> String {
    let run = world.store.new_run().unwrap();
    let upper = run.path().join("upper");
    fs::create_dir(upper.join("work")).unwrap();
    fs::write(upper.join("work/file"), "precious").unwrap();
    fs::write(upper.join("other"), "not wanted").unwrap();
    run.keep(record).unwrap();
    run.id().to_owned()
}

pub fn record() -> KeptRecord {
    KeptRecord {
        why: "the disk was full".into(),
        command: vec!["make".into(), "all".into()],
        name: Some("result".into()),
        clamp_mtime: Some(7),
        only: vec![PathBuf::from("work")],
        ..KeptRecord::default()
    }
}
