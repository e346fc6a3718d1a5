//! A proposal: what a command would change, under a name in the store.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vfsrun_layers::apply::choose;
use vfsrun_layers::base::Place;
use vfsrun_layers::changes::{self, Change};
use vfsrun_layers::{Base, Digest, Kind, LayerStore, Manifest, ManifestError, StoreError, order, stack};

#[derive(Debug)]
pub struct Proposal {
    pub name: String,
    pub layer: Manifest,
    pub base: Base,
}

#[derive(Debug, Error)]
pub enum ProposalError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{name}: nothing is known of what it was made from: only a run that captures its layer records that, no import, tag or recovery"
    )]
    NoBase { name: String },
    #[error("{name}: it was not made on the whole host: {} is at {} there", on_host.display(), in_root.display())]
    NotOnHost { name: String, on_host: PathBuf, in_root: PathBuf },
    #[error("cannot choose from the changes of {name}")]
    Choice { name: String, source: ManifestError },
    #[error("cannot put the changes of {lower} and those made over them together")]
    Stack { lower: String, source: ManifestError },
}

impl Proposal {
    /// Errors: no such name, or one that no run has given; a damaged store.
    pub fn open(store: &LayerStore, name: &str) -> Result<Proposal, ProposalError> {
        let base = store.base(name)?.ok_or_else(|| ProposalError::NoBase { name: name.to_owned() })?;
        let layer = store.manifest(&base.layer)?;
        Ok(Proposal { name: name.to_owned(), layer, base })
    }

    /// Errors: one of a run in which the host's files lay elsewhere, so that it means other paths.
    pub fn made_on_host(self) -> Result<Proposal, ProposalError> {
        let elsewhere = self.base.seen.iter().find_map(|seen| match &seen.place {
            Place::Host { path, .. } if *path != Path::new("/").join(&seen.path) => {
                Some((path.clone(), Path::new("/").join(&seen.path)))
            }
            _ => None,
        });
        match elsewhere {
            Some((on_host, in_root)) => Err(ProposalError::NotOnHost { name: self.name, on_host, in_root }),
            None => Ok(self),
        }
    }

    pub fn changes(&self) -> Vec<Change<'_>> {
        changes::changes(&self.layer, &self.base)
    }

    /// With the changes alone that are `wanted` (by path and whether it is a directory), under the same name. A directory all of
    /// which was to come or go comes or goes in part if not all below it is wanted.
    pub fn narrowed(
        self,
        store: &LayerStore,
        wanted: impl Fn(&Path, bool) -> bool,
    ) -> Result<Proposal, ProposalError> {
        let layer = {
            let changes = self.changes();
            let is_wanted = |change: &Change<'_>| wanted(change.path(), change.is_directory());
            let unwanted: HashSet<&Path> = changes
                .iter()
                .filter(|change| !is_wanted(change))
                .flat_map(|change| change.path().ancestors())
                .collect();
            let paths = changes.iter().map(Change::path).filter(|path| !unwanted.contains(path));
            choose(&self.layer, &self.base, &paths.map(Path::to_owned).collect::<Vec<_>>())
                .map_err(|source| ProposalError::Choice { name: self.name.clone(), source })?
        };
        let seen = stack::seen_by(&layer, &self.base.seen);
        let base = Base { layer: store.put_layer(&layer)?, seen, ..self.base };
        store.set_name_with_base(&self.name, &base)?;
        Ok(Proposal { layer, base, name: self.name })
    }

    /// These changes were made over `lower`'s: together they are changes to what `lower`'s were made to.
    pub fn stacked_on(self, lower: &Proposal, store: &LayerStore) -> Result<Proposal, ProposalError> {
        let seen = stack::seen(&lower.base.seen, &self.base.seen);
        let was_there = |path: &Path| seen.binary_search_by(|seen| order::compare(&seen.path, path)).is_ok();
        let layer = stack::layers(&lower.layer, &self.layer, was_there)
            .map_err(|source| ProposalError::Stack { lower: lower.name.clone(), source })?;
        let contents = self.contents_over(lower, store)?;
        let over = lower.base.over.clone();
        let raw = lower.base.raw && self.base.raw;
        let base = Base { layer: store.put_layer(&layer)?, raw, over, contents, seen };
        store.set_name_with_base(&self.name, &base)?;
        Ok(Proposal { layer, base, ..self })
    }

    /// What files held that lie below both.
    fn contents_over(&self, lower: &Proposal, store: &LayerStore) -> Result<Option<Digest>, ProposalError> {
        let (Some(new), Some(old)) = (self.base.contents, lower.base.contents) else {
            return Ok(lower.base.contents.or(self.base.contents));
        };
        let (new, old) = (store.manifest(&new)?, store.manifest(&old)?);
        let pairs = order::join(&new.entries, |entry| &entry.path, &old.entries, |entry| &entry.path);
        let entries = pairs.filter_map(|(new, old)| old.or(new).cloned()).collect();
        // What became another type between the two commands leaves no manifest.
        match Manifest::from_entries(entries) {
            Ok(both) => Ok(Some(store.put_layer(&both)?)),
            Err(_) => Ok(lower.base.contents),
        }
    }

    /// Under another name. What had that stays in the store without one.
    pub fn renamed(self, store: &LayerStore, name: &str) -> Result<Proposal, ProposalError> {
        store.set_name_with_base(name, &self.base)?;
        store.remove_name(&self.name)?;
        Ok(Proposal { name: name.to_owned(), ..self })
    }

    /// Forgets them. Of what has no content nothing needs to be looked for: a later collection takes it.
    pub fn discard(self, store: &LayerStore) -> Result<(), ProposalError> {
        let has_content = self.layer.entries.iter().any(|entry| matches!(entry.kind, Kind::File { .. }));
        if has_content {
            store.remove(&self.name)?;
        } else {
            store.remove_name(&self.name)?;
        }
        Ok(())
    }
}
