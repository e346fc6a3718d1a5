//! An annotation of ours: a part of `vfs` as JSON text, for bundles that come through other programs.

use std::path::Path;

use crate::objects::Objects;
use crate::vfs::{LANDLOCK_ANNOTATION, Landlock};
use crate::{Spec, SpecError, validate};

/// The Landlock rules of a bundle. Errors name the annotation and the place in its text.
pub(crate) fn landlock(spec: &Spec, file: &Path) -> Result<Option<Landlock>, SpecError> {
    let Some(text) = spec.annotations.get(LANDLOCK_ANNOTATION) else { return Ok(None) };
    let place = format!("annotations[{LANDLOCK_ANNOTATION:?}]");
    let raw =
        serde_json::from_str(text).map_err(|error| SpecError::not_json_within(file, &place, text, &error))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let landlock: Landlock = serde_path_to_error::deserialize(Objects(&mut deserializer))
        .map_err(|error| SpecError::mistyped(file, &place, &error))?;
    validate::annotated_landlock(&place, &landlock, &raw)
        .map_err(|problem| SpecError::invalid(file, problem))?;
    Ok(Some(landlock))
}
