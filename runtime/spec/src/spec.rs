//! A spec: what a user asked for, as types.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::objects::Objects;
use crate::optional::or_default;
use crate::vfs::{Landlock, VIEW_ANNOTATION};
use crate::{Hooks, Linux, Mount, Process, Root, SpecError, Vfs, annotation, oci, validate};

/// A parsed spec. Serialized it is a config again, without the keys this program does not know; `text` has those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Present: hermetic defaults and a composed root. Absent: exact OCI semantics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfs: Option<Vfs>,
    /// The Landlock rules of a bundle, from its annotation ([`LANDLOCK_ANNOTATION`](crate::vfs::LANDLOCK_ANNOTATION)).
    #[serde(skip)]
    pub landlock: Option<Landlock>,
    /// The view that is a bundle's root, from the file that its annotation names
    /// ([`VIEW_ANNOTATION`](crate::vfs::VIEW_ANNOTATION)). All else has exact OCI semantics.
    #[serde(skip)]
    pub view: Option<Vfs>,
    /// The whole document as it was written, so that keys without a type here (`vm`, extensions) are not lost.
    #[serde(skip)]
    pub text: String,
}

impl Spec {
    /// Understands `text`, which came from `file`; the name is only used in messages.
    ///
    /// # Errors
    /// The text is not JSON, a value has the wrong type or is not allowed, or a needed one is missing.
    pub fn parse(text: &str, file: &Path) -> Result<Self, SpecError> {
        let mut spec = match document(text) {
            Ok(spec) => spec,
            Err(_) => with_place(text, file)?,
        };
        text.clone_into(&mut spec.text);
        // What a value says of itself, a type does not: whether it is null.
        let raw = match spec.vfs {
            Some(_) => value(text, file)?,
            None => Value::Null,
        };
        validate::spec(&spec, &raw).map_err(|problem| SpecError::invalid(file, problem))?;
        spec.landlock = annotation::landlock(&spec, file)?;
        Ok(spec)
    }

    /// The file that describes the view which is this bundle's root, absolute. See [`Spec::take_view`].
    pub fn view_file(&self) -> Option<&Path> {
        self.annotations.get(VIEW_ANNOTATION).map(Path::new)
    }

    /// Understands the text of the [`Spec::view_file`] of this spec, whose own file is `file`.
    ///
    /// # Errors
    /// As [`Spec::parse`].
    pub fn take_view(&mut self, text: &str, file: &Path) -> Result<(), SpecError> {
        self.view = Some(annotation::view(text, file)?);
        Ok(())
    }

    /// What the root is composed of, with the JSON path that says it: `vfs`, or a bundle's annotation.
    pub fn composed(&self) -> Option<(&Vfs, String)> {
        let view = || self.view.as_ref().map(|view| (view, format!("annotations[{VIEW_ANNOTATION:?}]")));
        self.vfs.as_ref().map(|vfs| (vfs, "vfs".to_owned())).or_else(view)
    }

    /// This config with another process, for a command in its container: `text`, which came from `file`.
    ///
    /// # Errors
    /// As [`Spec::parse`]; places begin with `process`.
    pub fn with_process(self, text: &str, file: &Path) -> Result<Self, SpecError> {
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|error| SpecError::not_json(file, text, &error))?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let process = serde_path_to_error::deserialize(Objects(&mut deserializer))
            .map_err(|error| SpecError::mistyped(file, "process", &error))?;
        self.changed(process, file)
    }

    /// This config with another process, which `file` has not, but says what it was made of.
    ///
    /// # Errors
    /// The process is not allowed.
    pub fn changed(self, process: Process, file: &Path) -> Result<Self, SpecError> {
        let spec = Spec { process: Some(process), ..self };
        validate::spec(&spec, &Value::Null).map_err(|problem| SpecError::invalid(file, problem))?;
        Ok(spec)
    }

    /// What is allowed and yet worth telling the user, a line each: capabilities this program does not know,
    /// which the specification wants skipped with a warning.
    pub fn warnings(&self) -> Vec<String> {
        let capabilities = self.process.as_ref().and_then(|process| process.capabilities.as_ref());
        let unknown = capabilities.map(oci::Capabilities::unknown).unwrap_or_default();
        let warning = |name: &str| {
            // libcap's spelling, or without the prefix, as in docker's options.
            let meant = format!("CAP_{}", name.to_uppercase().trim_start_matches("CAP_"));
            let meant = oci::CAPABILITIES.iter().find(|known| **known == meant);
            let hint = meant.map(|known| format!("; did you mean {known:?}?")).unwrap_or_default();
            format!("process.capabilities: unknown capability {name:?} is left out{hint}")
        };
        unknown.into_iter().map(warning).collect()
    }
}

impl oci::Resources {
    /// Understands `text`, an object as `linux.resources` that is a document of its own and came from `file`.
    ///
    /// # Errors
    /// As [`Spec::parse`]; paths begin at the object.
    pub fn parse(text: &str, file: &Path) -> Result<Self, SpecError> {
        serde_json::from_str::<Value>(text).map_err(|error| SpecError::not_json(file, text, &error))?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let resources: Self = serde_path_to_error::deserialize(Objects(&mut deserializer))
            .map_err(|error| SpecError::mistyped(file, "", &error))?;
        validate::resources(&resources).map_err(|problem| SpecError::invalid(file, problem))?;
        Ok(resources)
    }
}

fn document(text: &str) -> serde_json::Result<Spec> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let spec = Spec::deserialize(Objects(&mut deserializer))?;
    deserializer.end()?;
    Ok(spec)
}

/// The same for a text that is wrong, by which the place of what is wrong is found. To remember places takes as long as all else.
fn with_place(text: &str, file: &Path) -> Result<Spec, SpecError> {
    value(text, file)?;
    // From the text again, not from the value: a value no longer knows that a key was there twice.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(Objects(&mut deserializer))
        .map_err(|error| SpecError::mistyped(file, "", &error))
}

fn value(text: &str, file: &Path) -> Result<Value, SpecError> {
    serde_json::from_str(text).map_err(|error| SpecError::not_json(file, text, &error))
}
