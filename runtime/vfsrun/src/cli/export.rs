//! The command line of `vfsrun layer export`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vfsrun_layers::{Compression, DigestFunction};

pub const EXAMPLES: &str = "\
Examples:
  vfsrun layer export hello ./out                          its files
  vfsrun layer export hello hello.tar.zst                  a tar, compressed as its name says
  vfsrun layer export hello - | ssh host tar -xC /srv      a tar to a pipe
  vfsrun layer export --format oci-layout --tag latest top base ./image
  vfsrun layer export hello hello.mtree                    a list with digests, to compare or verify";

#[derive(Debug, Args)]
pub struct Export {
    /// Names or digests; several, first on top, are the layers of an oci-layout
    #[arg(required = true, value_name = "LAYER")]
    pub layers: Vec<String>,
    /// What is written; - is stdout
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
    /// [default: by TARGET's name: tar for .tar, .tar.gz, .tgz, .tar.zst and -, mtree for .mtree, dir for others]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// How a tar is compressed [default: by TARGET's name; gzip in an oci-layout]
    #[arg(long, value_name = "HOW")]
    pub compress: Option<Compress>,
    /// What the image of an oci-layout is called in it
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// What names the files and directories of reapi
    #[arg(long, value_name = "FUNCTION")]
    pub digest: Option<Function>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A new directory with the layer's files
    Dir,
    /// The same: an upper or lower directory of overlayfs
    Upper,
    /// A tar of a layer without whiteouts
    Tar,
    /// A tar as in images, with .wh. files for whiteouts
    OciLayer,
    /// A new directory that is an image
    OciLayout,
    /// A list in the words of mtree(5), with SHA-256
    Mtree,
    /// A new directory with the messages and files of a Remote Execution API input root
    Reapi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    None,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Function {
    Sha256,
    Blake3,
}

impl Export {
    pub fn is_stdout(&self) -> bool {
        self.target.as_os_str() == "-"
    }

    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| match name(&self.target) {
            name if name.ends_with(b".mtree") => Format::Mtree,
            name if name == b"-" || name.ends_with(b".tar") || suffix(name).is_some() => Format::Tar,
            _ => Format::Dir,
        })
    }

    pub fn compression(&self) -> Compression {
        match self.compress {
            Some(Compress::None) => Compression::None,
            Some(Compress::Gzip) => Compression::Gzip,
            Some(Compress::Zstd) => Compression::Zstd,
            // What every program reads.
            None if self.format() == Format::OciLayout => Compression::Gzip,
            None => suffix(name(&self.target)).unwrap_or_default(),
        }
    }

    pub fn function(&self) -> DigestFunction {
        self.digest.map(DigestFunction::from).unwrap_or_default()
    }

    /// Errors: an option that the format has no use for.
    pub fn check(&self) -> Result<(), String> {
        let format = self.format();
        let is_tar = matches!(format, Format::Tar | Format::OciLayer);
        let one_file = is_tar || format == Format::Mtree;
        for (given, option, wanted, formats) in [
            (self.layers.len() > 1, "several layers", format == Format::OciLayout, "oci-layout"),
            (self.tag.is_some(), "--tag", format == Format::OciLayout, "oci-layout"),
            (self.digest.is_some(), "--digest", format == Format::Reapi, "reapi"),
            (
                self.compress.is_some(),
                "--compress",
                is_tar || format == Format::OciLayout,
                "tar, oci-layer and oci-layout",
            ),
            (self.is_stdout(), "stdout", one_file, "tar, oci-layer and mtree"),
        ] {
            if given && !wanted {
                return Err(format!("{option}: only with --format {formats}"));
            }
        }
        Ok(())
    }
}

impl From<Function> for DigestFunction {
    fn from(function: Function) -> DigestFunction {
        match function {
            Function::Sha256 => DigestFunction::Sha256,
            Function::Blake3 => DigestFunction::Blake3,
        }
    }
}

fn name(target: &Path) -> &[u8] {
    target.file_name().unwrap_or(OsStr::new("")).as_bytes()
}

fn suffix(name: &[u8]) -> Option<Compression> {
    let ends = |suffixes: &[&[u8]]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if ends(&[b".tar.gz", b".tgz"]) {
        Some(Compression::Gzip)
    } else if ends(&[b".tar.zst", b".tzst"]) {
        Some(Compression::Zstd)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(target: &str) -> Export {
        let (layers, target) = (vec!["layer".into()], target.into());
        Export { layers, target, format: None, compress: None, tag: None, digest: None }
    }

    #[test]
    fn the_name_says_the_form() {
        for (target, format, compression) in [
            ("out", Format::Dir, Compression::None),
            ("out/", Format::Dir, Compression::None),
            ("..", Format::Dir, Compression::None),
            ("a/b.tar", Format::Tar, Compression::None),
            ("b.tar.gz", Format::Tar, Compression::Gzip),
            ("b.tgz", Format::Tar, Compression::Gzip),
            ("b.tar.zst", Format::Tar, Compression::Zstd),
            ("b.gz", Format::Dir, Compression::None),
            ("b.mtree", Format::Mtree, Compression::None),
            ("-", Format::Tar, Compression::None),
        ] {
            let export = export(target);
            assert_eq!((export.format(), export.compression()), (format, compression), "{target}");
        }
        let layer = Export { format: Some(Format::OciLayer), ..export("blob.tar.zst") };
        assert_eq!(layer.compression(), Compression::Zstd);
        let image = Export { format: Some(Format::OciLayout), ..export("image") };
        assert_eq!(image.compression(), Compression::Gzip);
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        let stdout = Export { format: Some(Format::Dir), ..export("-") };
        assert_eq!(stdout.check().unwrap_err(), "stdout: only with --format tar, oci-layer and mtree");
        let tagged = Export { tag: Some("x".into()), ..export("x.tar") };
        assert_eq!(tagged.check().unwrap_err(), "--tag: only with --format oci-layout");
        let two = Export { layers: vec!["a".into(), "b".into()], ..export("out") };
        assert_eq!(two.check().unwrap_err(), "several layers: only with --format oci-layout");
        let compressed = Export { compress: Some(Compress::Gzip), ..export("x.mtree") };
        assert!(compressed.check().is_err());
        assert_eq!(export("-").check(), Ok(()));
    }
}
