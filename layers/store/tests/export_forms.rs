//! Export as an image and as an mtree specification: what other programs are given, read again.

mod common;
#[path = "common/every.rs"]
mod every;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{World, directory, file, skip};
use vfsrun_layers::{
    Compression, Entry, ExportError, Image, ImageOptions, Kind, Manifest, export_image, export_mtree,
    write_file,
};

fn without_devices(manifest: Manifest) -> Manifest {
    let plain = |entry: &Entry| !matches!(entry.kind, Kind::Device { .. });
    Manifest { entries: manifest.entries.into_iter().filter(plain).collect() }
}

/// A lower and an upper layer, first on top.
fn two_layers(world: &World) -> [Manifest; 2] {
    world.store.put_blob(&b"lower"[..]).unwrap();
    let lower = Manifest::from_entries(vec![directory("gone"), file("gone/file", b"lower")]).unwrap();
    [without_devices(every::with_whiteouts(&world.store)), lower]
}

#[test]
fn an_image_comes_back_as_the_same_layers() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let world = World::new();
        let layers = two_layers(&world);
        let options = ImageOptions { tag: Some("latest".into()), compression, ..ImageOptions::default() };
        let (_, written) =
            export_image(&layers, &world.store, &options, &world.path("image"), |_| {}).unwrap();
        let other = World::new();
        let image = Image::open(&world.path("image"), Some("latest")).unwrap();
        image.import_missing(&other.store, |file| file).unwrap();
        let digests = image.layers(&other.store).unwrap();
        assert_eq!(digests, layers.each_ref().map(Manifest::digest));
        let names = written.iter().rev().map(|layer| format!("sha256/{}", layer.digest));
        assert_eq!(image.names(), names.collect::<Vec<_>>());
    }
}

#[test]
fn the_same_layers_are_the_same_image_and_nothing_else_lies_in_it() {
    let world = World::new();
    let layers = two_layers(&world);
    let options = ImageOptions { created: 1_700_000_000, ..ImageOptions::default() };
    let mut found = Vec::new();
    for name in ["one", "two"] {
        export_image(&layers, &world.store, &options, &world.path(name), |_| {}).unwrap();
        let listed = Command::new("sh")
            .args(["-c", "find . -type f | sort | xargs sha256sum"])
            .current_dir(world.path(name))
            .output()
            .unwrap();
        found.push(String::from_utf8(listed.stdout).unwrap());
    }
    assert_eq!(found[0], found[1]);
    // Two layers, a config and a manifest, each named by its digest.
    let blobs: Vec<&str> = found[0]
        .lines()
        .filter_map(|line| line.split_once("  ./blobs/sha256/"))
        .map(|(sum, name)| {
            assert_eq!(sum, name);
            name
        })
        .collect();
    assert_eq!((blobs.len(), found[0].lines().count()), (4, 6));
}

#[test]
fn the_config_has_the_diff_ids_and_times() {
    let world = World::new();
    let layers = two_layers(&world);
    let options =
        ImageOptions { created: 1_700_000_000, compression: Compression::Gzip, ..ImageOptions::default() };
    let (digest, written) =
        export_image(&layers, &world.store, &options, &world.path("image"), |_| {}).unwrap();
    let read = |digest: &str| {
        let (_, hex) = digest.split_once(':').unwrap();
        let text = fs::read(world.path("image/blobs/sha256").join(hex)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let manifest = read(&digest);
    let config = read(manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    for (index, layer) in written.iter().enumerate() {
        assert_eq!(config["rootfs"]["diff_ids"][index], format!("sha256:{}", layer.diff_id));
        assert_eq!(manifest["layers"][index]["digest"], format!("sha256:{}", layer.digest));
        assert_eq!(manifest["layers"][index]["size"], layer.size);
        assert_ne!(layer.diff_id, layer.digest);
    }
    assert_eq!(config["history"].as_array().unwrap().len(), 2);
}

#[test]
fn a_failed_image_leaves_an_empty_directory() {
    let world = World::new();
    let layers =
        [Manifest::from_entries(vec![file("missing", b"never stored")]).unwrap(), Manifest::default()];
    let error = export_image(&layers, &world.store, &ImageOptions::default(), &world.path("image"), |_| {})
        .unwrap_err();
    assert!(matches!(error, ExportError::Store { .. }), "{error}");
    assert_eq!(fs::read_dir(world.path("image")).unwrap().count(), 0);
}

#[test]
fn an_image_is_not_written_over_files() {
    let world = World::new();
    fs::write(world.dir("image").join("precious"), "").unwrap();
    let error =
        export_image(&[], &world.store, &ImageOptions::default(), &world.path("image"), |_| {}).unwrap_err();
    assert!(matches!(error, ExportError::NotEmpty { .. }), "{error}");
    assert!(world.path("image/precious").exists());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let world = World::new();
    let target = world.path("out");
    fs::write(&target, "old").unwrap();
    let failing = write_file(&target, |mut file| {
        std::io::Write::write_all(&mut file, b"half").unwrap();
        Err::<(), _>(ExportError::Write { source: std::io::ErrorKind::StorageFull.into() })
    });
    assert!(failing.is_err());
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    std::os::unix::fs::symlink("out", world.path("link")).unwrap();
    write_file(&world.path("link"), |mut file| {
        std::io::Write::write_all(&mut file, b"new").map_err(|source| ExportError::Write { source })
    })
    .unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    assert!(world.path("link").is_symlink());
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o600, 0o600);
    let left = fs::read_dir(world.temp.path()).unwrap().count();
    assert_eq!(left, 3, "the store, the file and the link");
}

fn mtree(world: &World, manifest: &Manifest) -> String {
    let mut text = Vec::new();
    export_mtree(manifest, &world.store, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_specification_has_a_line_for_every_name_and_comments_for_the_rest() {
    let world = World::new();
    let manifest = every::with_whiteouts(&world.store);
    let text = mtree(&world, &manifest);
    assert!(text.is_ascii());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "#mtree v2.0");
    let whiteouts = manifest.entries.iter().filter(|entry| entry.kind == Kind::Whiteout).count();
    let plain = lines.iter().filter(|line| !line.starts_with('#')).count();
    assert_eq!(plain, manifest.entries.len() - whiteouts);
    let has = |line: &str| assert!(lines.contains(&line), "{line} in\n{text}");
    has("# ./gone type=whiteout");
    has("# ./opaque opaque");
    has(
        "# ./names/equals\\075sign\\040\\043\\040and\\040space xattr.system.posix_acl_access=\\002\\000\\000\\000\\001\\000\\006\\000\\377\\377\\377\\377\\004\\000\\006\\000\\377\\377\\377\\377\\010\\000\\004\\000\\012\\000\\000\\000\\020\\000\\006\\000\\377\\377\\377\\377\\040\\000\\004\\000\\377\\377\\377\\377",
    );
    has("./fifo type=fifo mode=0640 uid=5 gid=0 time=1000000000.000000000");
    has("./char type=char mode=0666 uid=0 gid=0 time=1000000000.000000000 device=native,1,3");
    has(
        "./size1 type=file mode=0644 uid=0 gid=0 time=1000000000.000000000 size=1 sha256digest=6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    );
    has("# ./z/hard0 hardlink=./names/a\\012b");
}

#[test]
fn bsdtar_reads_the_specification() {
    if !Path::new("/usr/bin/bsdtar").exists() {
        skip::this_test("bsdtar is not installed (libarchive-tools)");
        return;
    }
    let world = World::new();
    let manifest = every::layer(&world.store);
    fs::write(world.path("x.mtree"), mtree(&world, &manifest)).unwrap();
    let listed = Command::new("bsdtar")
        .args(["-tvf", "x.mtree"])
        .env("LC_ALL", "C.UTF-8")
        .current_dir(world.temp.path())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(text.lines().count(), manifest.entries.len());
    for wanted in ["./names/häuser", "./z/soft0 -> names/a\\nb", "./names/equals=sign # and space", "1,3"] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn a_damaged_blob_has_no_specification() {
    let world = World::new();
    let manifest = world.damaged();
    let mut text = Vec::new();
    let error = export_mtree(&manifest, &world.store, &mut text).unwrap_err();
    assert_eq!((error.to_string().as_str(), text.len()), ("cannot read \"some\" of the layer", 0));
}
