//! The text of an input manifest, read in one pass: strings stay where they are, and an error knows its key.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use vfsrun_layers::Digest;

use crate::inputs::InputsError;

/// Bytes of the text for one input, so that the table of a usual manifest does not grow while it is filled.
const USUAL_ENTRY: usize = 48;

/// A part of the text, or of the unescaped strings that are put behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Host(Span),
    Blob { digest: Digest, executable: bool },
}

/// The files in the order of the text, and the strings that had to be unescaped: their spans start after the text.
pub(crate) fn read(text: &str) -> Result<(Vec<(Span, Target)>, String), InputsError> {
    let reader = Reader { text, escaped: RefCell::default(), key: RefCell::default() };
    let mut json = serde_json::Deserializer::from_str(text);
    let document = reader.deserialize(&mut json).and_then(|document| json.end().map(|()| document));
    let document = document.map_err(|error| match reader.key.take() {
        Some(key) => InputsError::Entry { key, source: error },
        None => InputsError::Json(error),
    })?;
    if document.version != 1 {
        return Err(InputsError::Version(document.version));
    }
    Ok((document.files, reader.escaped.take()))
}

struct Reader<'de> {
    text: &'de str,
    escaped: RefCell<String>,
    /// The key whose value is being read, for the error message.
    key: RefCell<Option<String>>,
}

struct Document {
    version: u64,
    files: Vec<(Span, Target)>,
}

impl<'de> Reader<'de> {
    fn span(&self, found: Cow<'de, str>) -> Span {
        let start = match &found {
            Cow::Borrowed(part) => part.as_ptr() as usize - self.text.as_ptr() as usize,
            Cow::Owned(part) => {
                let mut escaped = self.escaped.borrow_mut();
                escaped.push_str(part);
                self.text.len() + escaped.len() - part.len()
            }
        };
        // Both fit: the caller refuses texts beyond 4 GiB, before and after.
        Span { start: start as u32, len: found.len() as u32 }
    }
}

impl<'de> DeserializeSeed<'de> for &Reader<'de> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &Reader<'de> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `version` and `files`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let (mut version, mut files) = (None, None);
        while let Some(Text(field)) = map.next_key()? {
            match &*field {
                "version" => version = Some(map.next_value()?),
                "files" if files.is_none() => files = Some(map.next_value_seed(Files(self))?),
                "files" => return Err(de::Error::duplicate_field("files")),
                other => return Err(de::Error::unknown_field(other, &["version", "files"])),
            }
        }
        let version = version.ok_or_else(|| de::Error::missing_field("version"))?;
        let files = files.ok_or_else(|| de::Error::missing_field("files"))?;
        Ok(Document { version, files })
    }
}

struct Files<'a, 'de>(&'a Reader<'de>);

impl<'de> DeserializeSeed<'de> for Files<'_, 'de> {
    type Value = Vec<(Span, Target)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Files<'_, 'de> {
    type Value = Vec<(Span, Target)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from path to host file or digest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let reader = self.0;
        let mut files = Vec::with_capacity(reader.text.len() / USUAL_ENTRY);
        while let Some(Text(key)) = map.next_key()? {
            let target = match map.next_value() {
                Ok(RawTarget::Host(path)) => Target::Host(reader.span(path)),
                Ok(RawTarget::Blob { digest, executable }) => Target::Blob { digest, executable },
                Err(error) => {
                    *reader.key.borrow_mut() = Some(key.into_owned());
                    return Err(error);
                }
            };
            files.push((reader.span(key), target));
        }
        Ok(files)
    }
}

/// A string, borrowed from the text unless it has escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match RawTarget::deserialize(deserializer)? {
            RawTarget::Host(text) => Ok(Text(text)),
            RawTarget::Blob { .. } => Err(de::Error::custom("a string is wanted")),
        }
    }
}

enum RawTarget<'de> {
    Host(Cow<'de, str>),
    Blob { digest: Digest, executable: bool },
}

impl<'de> de::Deserialize<'de> for RawTarget<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetVisitor;

impl<'de> Visitor<'de> for TargetVisitor {
    type Value = RawTarget<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host path or an object with `digest`")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(RawTarget::Host(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(RawTarget::Host(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Blob {
            digest: String,
            #[serde(default)]
            executable: bool,
        }
        let blob: Blob = de::Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let digest = blob.digest.parse().map_err(de::Error::custom)?;
        Ok(RawTarget::Blob { digest, executable: blob.executable })
    }
}
