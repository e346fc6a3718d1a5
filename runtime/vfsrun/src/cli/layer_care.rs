//! Commands of `vfsrun layer` that look after the store.

use clap::Subcommand;
use vfsrun_spec::vfs::Size;

#[derive(Debug, Subcommand)]
pub enum LayerCare {
    /// Give a layer another name
    #[command(after_help = "Example:\n  vfsrun layer tag debian-12 debian-12/2026-11")]
    Tag {
        /// A name or digest
        layer: String,
        name: String,
    },
    /// Say what differs between two layers
    ///
    /// A line each: `+ PATH` only the second has it, `- PATH` only the first has it, `~ PATH ASPECT,…` with content, link,
    /// mode, owner, time, xattrs, opaque, device, or type alone. In PATH %XX is a byte that would be no text.
    #[command(
        after_help = "Exit status 0 if they are equal, 1 if they differ, 125 on trouble (2 of diff(1)).\n\nExample:\n  vfsrun layer diff debian-12 b3:0123abcd"
    )]
    Diff {
        /// Print an array with an object per path
        #[arg(long)]
        json: bool,
        /// A name or digest
        first: String,
        second: String,
    },
    /// Read layers again and compare every byte with what it is named by
    #[command(after_help = "Exit status 0 if all is sound, 1 if there is a problem.")]
    Verify {
        /// Print an object with the problems
        #[arg(long)]
        json: bool,
        /// Names or digests; the whole store without
        #[arg(value_name = "LAYER")]
        layers: Vec<String>,
    },
    /// Remove layers without a name that have not been used lately, and what nothing needs
    ///
    /// Kept are layers that have a name or are in use, and those that were used in the last days, as long as together they do
    /// not take too much room; then the least recently used go first. What dead processes left goes, too.
    #[command(after_help = "Example:\n  vfsrun layer gc --dry-run --keep-days 1")]
    Gc {
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Since the last use [default: keepDays of the store's config.json, or 7]
        #[arg(long, value_name = "N")]
        keep_days: Option<u64>,
        /// Such as 500M or 20G, for all layers without a name [default: keepBytes of config.json, or 10G]
        #[arg(long, value_name = "SIZE")]
        keep_bytes: Option<Size>,
    },
    /// List what actions wrote that could not be captured; or capture it again, or drop it
    #[command(
        after_help = "Examples:\n  vfsrun layer recover                                list what is kept\n  vfsrun layer recover 18a0c3f2d4e5b697 --name mine   make a layer of it\n  vfsrun layer recover --drop 18a0c3f2d4e5b697"
    )]
    Recover {
        /// As the list has it
        id: Option<String>,
        /// What the layer is to be called [default: as the action's capture would have]
        #[arg(long, requires = "id")]
        name: Option<String>,
        /// Record devices; otherwise one is an error
        #[arg(long, requires = "id")]
        devices: bool,
        /// Remove what is kept
        #[arg(long, value_name = "ID", conflicts_with = "id")]
        drop: Option<String>,
    },
}
