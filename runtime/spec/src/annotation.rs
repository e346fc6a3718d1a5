//! Annotations of ours: parts of `vfs` as JSON text, for bundles that come through other programs.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::Objects;
use crate::vfs::{Capture, LANDLOCK_ANNOTATION, Landlock, UpperOn, VIEW_ANNOTATION};
use crate::{Spec, SpecError, Vfs, validate};

/// The Landlock rules of a bundle. Errors name the annotation and the place in its text.
pub(crate) fn landlock(spec: &Spec, file: &Path) -> Result<Option<Landlock>, SpecError> {
    let Some(text) = spec.annotations.get(LANDLOCK_ANNOTATION) else { return Ok(None) };
    let Text { place, raw, value } = understood(text, LANDLOCK_ANNOTATION, file)?;
    validate::annotated_landlock(&place, &value, &raw)
        .map_err(|problem| SpecError::invalid(file, problem))?;
    Ok(Some(value))
}

/// The view that is a bundle's root, from `text`. Where nothing is said about its writes they are the root's own, as without a view.
pub(crate) fn view(text: &str, file: &Path) -> Result<Vfs, SpecError> {
    let Text { place, raw, value } = understood(text, VIEW_ANNOTATION, file)?;
    let mut view: Vfs = value;
    validate::annotated_view(&place, &view, &raw).map_err(|problem| SpecError::invalid(file, problem))?;
    let is_captured = raw.get("capture").is_some();
    if !is_captured {
        view.capture = Capture::Discard;
    }
    if !is_captured && raw["upper"].get("on").is_none() {
        view.upper.on = UpperOn::Root;
    }
    Ok(view)
}

/// An annotation, understood.
struct Text<T> {
    /// Its JSON path.
    place: String,
    raw: Value,
    value: T,
}

fn understood<T: DeserializeOwned>(text: &str, name: &str, file: &Path) -> Result<Text<T>, SpecError> {
    let place = format!("annotations[{name:?}]");
    let raw =
        serde_json::from_str(text).map_err(|error| SpecError::not_json_within(file, &place, text, &error))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(Objects(&mut deserializer))
        .map_err(|error| SpecError::mistyped(file, &place, &error))?;
    Ok(Text { place, raw, value })
}
