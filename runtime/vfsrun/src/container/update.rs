//! An update: other limits for a container that is there. What they are is kept in its config, for later commands.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;
use vfsrun_cgroup::limits::RESOURCES;
use vfsrun_cgroup::resctrl::Schema;
use vfsrun_spec::SpecError;
use vfsrun_spec::oci::Resources;

use super::cgroup::CgroupUpdateError;
use super::{CONFIG, Container, ContainerError, Containers, Id, Status};
use crate::result_file;

#[derive(Debug, Error)]
pub enum UpdateError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Cgroup(#[from] CgroupUpdateError),
    #[error("{at}: above memory.swap, which stays {swap} and counts memory and swap together; say both")]
    AboveSwap { at: String, swap: i64 },
    // The words of runc.
    #[error(
        "{at}: updating a non-existent Intel RDT configuration is not supported: the container's config has no linux.intelRdt"
    )]
    NoGroup { at: &'static str },
    #[error("cannot keep the new limits in {}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// An option of the command line that was given, and the field that it sets.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    /// Below `linux.resources`.
    pub field: &'static str,
}

/// What an update is to change.
#[derive(Debug)]
pub struct Asked {
    change: Resources,
    /// For the container's resctrl group.
    schemata: Schemata,
    said: Said,
}

/// Lines, as the options say them.
#[derive(Clone, Debug, Default)]
pub struct Schemata {
    pub l3_cache: Option<String>,
    pub bandwidth: Option<String>,
}

/// Where, for messages.
#[derive(Debug)]
enum Said {
    Flags(Vec<Flag>),
    File(PathBuf),
}

impl Asked {
    pub fn by_flags((change, flags): (Resources, Vec<Flag>)) -> Asked {
        Asked { change, schemata: Schemata::default(), said: Said::Flags(flags) }
    }

    pub fn with(self, schemata: Schemata) -> Asked {
        Asked { schemata, ..self }
    }

    /// As an object like `linux.resources`; `file` is its name.
    pub fn read(mut source: impl Read, file: impl AsRef<Path>) -> Result<Asked, UpdateError> {
        let file = file.as_ref().to_path_buf();
        let mut text = String::new();
        match source.read_to_string(&mut text) {
            Err(source) => Err(UpdateError::Read { file, source }),
            Ok(_) => {
                let change = Resources::parse(&text, &file)?;
                Ok(Asked { change, schemata: Schemata::default(), said: Said::File(file) })
            }
        }
    }

    /// What the user calls a field.
    fn name(&self, field: &str) -> String {
        let field = field.strip_prefix(RESOURCES).unwrap_or(field);
        let flags = match &self.said {
            Said::File(file) => return format!("{}: {field}", file.display()),
            Said::Flags(flags) => flags,
        };
        // A quota and its period are one text, and memory and swap are compared.
        let fields = match field {
            "cpu.quota" => [field, "cpu.period"],
            "memory.swap" => [field, "memory.limit"],
            _ => [field, field],
        };
        let given = |field: &&str| flags.iter().find(|flag| flag.field == *field);
        let flag = fields.iter().find_map(given);
        flag.map_or_else(|| field.to_owned(), |flag| flag.name.to_owned())
    }
}

impl Schemata {
    fn lines(&self) -> Vec<Schema> {
        let said = [("--l3-cache-schema", &self.l3_cache), ("--mem-bw-schema", &self.bandwidth)];
        let said = said.into_iter().filter_map(|(at, line)| Some(Schema { at, line: line.clone()? }));
        said.collect()
    }

    fn keep_in(&self, document: &mut Value) {
        let said = [("l3CacheSchema", &self.l3_cache), ("memBwSchema", &self.bandwidth)];
        for (field, line) in said.into_iter().filter_map(|(field, line)| Some((field, line.as_ref()?))) {
            document["linux"]["intelRdt"][field] = line.clone().into();
        }
    }
}

impl Containers {
    /// Notes are about what cannot be changed here.
    pub fn update(&self, id: &Id, asked: &Asked, note: impl Fn(&str)) -> Result<(), UpdateError> {
        let _place = self.lock(id)?;
        let container = self.find(id)?;
        if container.status()? == Status::Stopped {
            return Err(ContainerError::NotRunning { id: id.clone() }.into());
        }
        let kept = container.cgroup()?.ok_or_else(|| ContainerError::NoCgroup(id.clone()))?;
        let schemata = asked.schemata.lines();
        if let (Some(schema), None) = (schemata.first(), kept.group()) {
            return Err(UpdateError::NoGroup { at: schema.at });
        }
        let config = container.config()?;
        let document = container.document(&config.text)?;
        let before = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        if !asked.change.devices.is_empty() && asked.change.devices != before.devices {
            let at = asked.name("devices");
            note(&format!(
                "{at}: not applied: the devices of a container are those that it was created with"
            ));
        }
        let now = before.changed_by(&asked.change);
        let written = now.written_for(&asked.change);
        refuse_above_swap(asked, &written)?;
        let ignored = kept.update(&written, &schemata, |field| asked.name(field))?;
        for field in ignored {
            note(&format!("{}: cgroup version 2 does not have it", asked.name(field)));
        }
        container.keep(document, now, &asked.schemata)
    }
}

/// Where swap is what it was, it is no part of what was said.
fn refuse_above_swap(asked: &Asked, written: &Resources) -> Result<(), UpdateError> {
    let asked_swap = asked.change.memory.as_ref().and_then(|memory| memory.swap).unwrap_or(0);
    let memory = written.memory.clone().unwrap_or_default();
    match (memory.limit.unwrap_or(0), memory.swap.unwrap_or(0)) {
        (limit, swap) if asked_swap == 0 && swap > 0 && limit > swap => {
            Err(UpdateError::AboveSwap { at: asked.name("memory.limit"), swap })
        }
        _ => Ok(()),
    }
}

impl Container {
    /// The config that is kept now, with what has no type here. A number that is too large for any is no error before.
    fn document(&self, config: &str) -> Result<Value, UpdateError> {
        let failed = |error: serde_json::Error| UpdateError::Keep {
            path: self.path.join(CONFIG),
            source: error.into(),
        };
        serde_json::from_str(config).map_err(failed)
    }

    fn keep(
        &self,
        mut document: Value,
        resources: Resources,
        schemata: &Schemata,
    ) -> Result<(), UpdateError> {
        let path = self.path.join(CONFIG);
        let failed = |source| UpdateError::Keep { path: path.clone(), source };
        let resources = serde_json::to_value(resources).map_err(|error| failed(error.into()))?;
        document["linux"]["resources"] = resources;
        schemata.keep_in(&mut document);
        result_file::write(&path, &document.to_string()).map_err(failed)
    }
}
