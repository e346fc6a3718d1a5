//! Logs: what was written is read again, and what is damaged or breaks off is told, whatever the bytes are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vfsrun_trace::{FileType, LogWriter, Mode, Outcome, Process, Trace, TraceError};

const NO_LIMIT: u64 = u64::MAX;
const ENOENT: i32 = 2;

/// A log that is written by `write`.
fn log(write: impl FnOnce(&mut LogWriter<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = LogWriter::begin(&mut bytes, Mode::Action, vec!["sources".into()], NO_LIMIT).unwrap();
    write(&mut writer);
    writer.end().unwrap();
    bytes
}

fn saw(writer: &mut LogWriter<&mut Vec<u8>>, process: &Process, path: &str, outcome: Outcome) {
    let process = writer.process(process.clone()).unwrap();
    let path = number(writer, path);
    writer.saw(process, path, outcome).unwrap();
}

fn number(writer: &mut LogWriter<&mut Vec<u8>>, path: &str) -> vfsrun_trace::PathNumber {
    writer.make_room().unwrap();
    let ancestors = Path::new(path).ancestors().filter_map(|path| Some((path, path.file_name()?)));
    let keyed = ancestors.map(|(path, name)| (key(path), name.as_encoded_bytes()));
    writer.path(keyed).unwrap()
}

/// Another one for each path of a test.
fn key(path: &Path) -> u128 {
    path.as_os_str().as_encoded_bytes().iter().fold(7, |key, byte| key * 257 + u128::from(*byte))
}

fn process(pid: u32) -> Process {
    Process {
        pid,
        pid_inside: pid + 1,
        start: 99,
        arguments: Some(b"cc\0-c\0".to_vec()),
        ..Process::default()
    }
}

fn paths(trace: &Trace) -> BTreeMap<PathBuf, Outcome> {
    trace.outcomes().into_iter().map(|(path, outcome)| (path, outcome.clone())).collect()
}

#[test]
fn what_one_segment_has_is_not_absent() {
    let bytes = log(|writer| {
        saw(writer, &process(1), "/a/b", Outcome::Failed(ENOENT));
        saw(writer, &process(1), "/a/b", Outcome::Stat(FileType::Regular));
        saw(writer, &process(1), "/a/c", Outcome::Failed(ENOENT));
        saw(writer, &process(2), "/a/b", Outcome::Failed(ENOENT));
    });
    let trace = Trace::read(&bytes[..]).unwrap();
    let expected = [("/a/b", Outcome::Stat(FileType::Regular)), ("/a/c", Outcome::Failed(ENOENT))];
    assert_eq!(paths(&trace), expected.map(|(path, outcome)| (path.into(), outcome)).into());
    assert_eq!(trace.seen.len(), 2, "the second process was told only of a segment that has it not");
    assert_eq!(trace.processes.len(), 2, "one that is told twice is one");
}

#[test]
fn as_one_all_processes_saw_what_any_of_them_did() {
    let bytes = log(|writer| {
        saw(writer, &process(1), "/a", Outcome::Stat(FileType::Regular));
        saw(writer, &process(2), "/a", Outcome::Read);
        saw(writer, &process(2), "/b", Outcome::Failed(ENOENT));
    });
    let (trace, as_one) = (Trace::read(&bytes[..]).unwrap(), Trace::read_as_one(&bytes[..]).unwrap());
    assert_eq!((as_one.processes.len(), as_one.seen.len()), (0, 2));
    assert_eq!(paths(&as_one), paths(&trace));
}

#[test]
fn an_error_of_one_segment_is_the_roots() {
    let bytes = log(|writer| {
        saw(writer, &process(1), "/a", Outcome::Failed(13));
        saw(writer, &process(1), "/a", Outcome::Read);
    });
    assert_eq!(paths(&Trace::read(&bytes[..]).unwrap())[Path::new("/a")], Outcome::Failed(13));
}

#[test]
fn a_file_that_was_read_was_read_by_all_its_names() {
    let bytes = log(|writer| {
        saw(writer, &process(1), "/one", Outcome::Stat(FileType::Regular));
        saw(writer, &process(1), "/two", Outcome::Stat(FileType::Regular));
        let (one, two) = (number(writer, "/one"), number(writer, "/two"));
        writer.same(two, one).unwrap();
        saw(writer, &process(2), "/one", Outcome::Read);
    });
    let trace = Trace::read(&bytes[..]).unwrap();
    assert_eq!(paths(&trace), [("/one".into(), Outcome::Read), ("/two".into(), Outcome::Read)].into());
}

#[test]
fn what_was_said_is_not_said_again() {
    let once = log(|writer| saw(writer, &process(1), "/a", Outcome::Read));
    let often = log(|writer| {
        let process = writer.process(process(1)).unwrap();
        for _ in 0..1000 {
            let path = number(writer, "/a");
            writer.saw(process, path, Outcome::Read).unwrap();
        }
    });
    assert_eq!(once, often);
}

#[test]
fn a_log_of_many_paths_is_read_as_one() {
    const MANY: usize = 250_000;
    let mut bytes = Vec::new();
    let mut writer = LogWriter::begin(&mut bytes, Mode::Process, Vec::new(), NO_LIMIT).unwrap();
    let process = writer.process(process(1)).unwrap();
    for i in 0..MANY {
        let path = number(&mut writer, &format!("/d{}/f{i}", i % 7));
        writer.saw(process, path, Outcome::Failed(ENOENT)).unwrap();
    }
    let counts = writer.end().unwrap();
    assert_eq!((counts.paths, counts.bytes), (MANY as u64, bytes.len() as u64));
    assert!(bytes.len() < 20 * MANY, "{} bytes", bytes.len());
    let trace = Trace::read(&bytes[..]).unwrap();
    assert_eq!((trace.mode, paths(&trace).len()), (Mode::Process, MANY));
}

#[test]
fn a_log_that_becomes_too_long_is_an_error() {
    let mut bytes = Vec::new();
    let mut writer = LogWriter::begin(&mut bytes, Mode::Action, Vec::new(), 1000).unwrap();
    let process = writer.process(process(1)).unwrap();
    let failed = (0..100_000).find_map(|i| {
        let path = number(&mut writer, &format!("/{i}"));
        writer.saw(process, path, Outcome::Read).err()
    });
    assert_eq!(failed.unwrap().to_string(), "it is longer than 1000 bytes");
    assert!(bytes.len() <= 1000);
}

#[test]
fn what_is_no_log_is_told() {
    let read = |bytes: &[u8]| Trace::read(bytes).unwrap_err();
    assert!(matches!(read(b""), TraceError::NotATrace));
    assert!(matches!(read(b"{\"vfsrun-layer\":1}\n"), TraceError::NotATrace));
    assert!(matches!(read(b"\x7fELF"), TraceError::NotATrace));
    assert!(matches!(read(b"{\"vfsrun-trace\":2}\n"), TraceError::Version { found: 2 }));
    let mut longer = log(|_| {});
    longer.push(0);
    assert!(matches!(read(&longer), TraceError::Damaged { .. }));
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (1..200).prop_map(Outcome::Failed),
        Just(Outcome::Read),
        Just(Outcome::Listed),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Outcome::Link),
        prop::sample::select(vec![
            FileType::Regular,
            FileType::Directory,
            FileType::Symlink,
            FileType::Fifo,
            FileType::Socket
        ])
        .prop_map(Outcome::Stat),
    ]
}

fn processes() -> impl Strategy<Value = Process> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let numbers = (1u32.., any::<u32>(), any::<u64>());
    (numbers, bytes(), bytes(), prop::option::of(any::<[u8; 32]>())).prop_map(
        |((pid, pid_inside, start), arguments, cwd, environment)| Process {
            pid,
            pid_inside,
            start,
            arguments,
            cwd,
            environment,
            ..Process::default()
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        events in prop::collection::vec((processes(), "(/[a-c]{1,2}){1,3}", outcomes()), 0..30),
        cut in any::<prop::sample::Index>(),
        flipped in any::<prop::sample::Index>(),
    ) {
        // Of each path one outcome, so that none outweighs another.
        let events: BTreeMap<_, _> = events.into_iter().map(|(p, path, o)| (path, (p, o))).collect();
        let mut bytes = log(|writer| {
            for (path, (process, outcome)) in &events {
                saw(writer, process, path, outcome.clone());
            }
        });
        let trace = Trace::read(&bytes[..]).unwrap();
        prop_assert!(!trace.is_cut_short);
        let read = trace.seen.iter().map(|seen| {
            let process = trace.processes[seen.process.expect("each has one")].clone();
            (trace.path(seen.path).to_str().expect("they are text").to_owned(), (process, seen.outcome.clone()))
        });
        prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), events);

        let short = &bytes[..cut.index(bytes.len())];
        match Trace::read(short) {
            Ok(trace) => prop_assert!(trace.is_cut_short),
            Err(error) => prop_assert!(matches!(error, TraceError::NotATrace), "{error}"),
        }
        let at = flipped.index(bytes.len());
        bytes[at] ^= 0x55;
        let _ = Trace::read(&bytes[..]);
    }

    #[test]
    fn garbage_is_read_without_a_panic(records in prop::collection::vec(0u8..16, 0..200)) {
        let mut bytes = b"{\"vfsrun-trace\":1,\"mode\":\"action\",\"segments\":[]}\n".to_vec();
        bytes.extend(records);
        let _ = Trace::read(&bytes[..]);
    }
}
