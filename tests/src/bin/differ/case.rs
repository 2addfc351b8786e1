//! One spec to run: the base spec with one variation, or with several at once.

use std::path::Path;

use harness::shim::bundle;
use serde_json::{Value, json};

use crate::fixture::Holder;

/// What a variation may need to know of where it is run.
pub(crate) struct Setting<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// A directory of this run's own, on the host.
    pub(crate) dir: &'a Path,
    /// The name of everything.
    pub(crate) token: &'a str,
    /// A directory that the host shares mounts in.
    pub(crate) shared: &'a Path,
    /// This program, on the host.
    pub(crate) program: &'a Path,
    /// Namespaces to join.
    pub(crate) holder: &'a Holder,
}

/// What a runtime is to do with a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs, and what is claimed holds.
    Runs,
    /// Nothing is made of it.
    Refused,
    /// The specification leaves it open, or this machine has a say.
    Open,
}

/// One change to the base spec.
pub(crate) struct Variation {
    /// The line in the coverage table.
    pub(crate) feature: &'static str,
    /// What it is.
    pub(crate) name: &'static str,
    /// The change.
    pub(crate) shape: fn(&mut Value, &Setting<'_>),
    /// What the specification has it be.
    pub(crate) fate: Fate,
    /// What is then to be seen, by JSON pointer into the observation.
    pub(crate) claims: Vec<(&'static str, Value)>,
    /// Whether a further process is executed in it, and how that differs from init.
    pub(crate) exec: Option<fn(&mut Value)>,
    /// Whether it goes together with others.
    pub(crate) combines: bool,
}

impl Variation {
    /// One that runs.
    pub(crate) fn new(
        feature: &'static str,
        name: &'static str,
        shape: fn(&mut Value, &Setting<'_>),
    ) -> Self {
        let (fate, combines) = (Fate::Runs, true);
        Self { feature, name, shape, fate, claims: Vec::new(), exec: None, combines }
    }

    /// What it changes, for those of several features that change the same.
    fn place(&self) -> &'static str {
        match self.feature {
            "bind mounts" | "mount options" | "mount propagation" | "mount kinds" => "mounts",
            "mount points" | "read-only paths" | "masked paths" => "mounts",
            other => other,
        }
    }

    /// One that must not run.
    pub(crate) fn refused(mut self) -> Self {
        (self.fate, self.combines) = (Fate::Refused, false);
        self
    }

    /// One whose outcome the specification leaves open.
    pub(crate) fn open(mut self) -> Self {
        (self.fate, self.combines) = (Fate::Open, false);
        self
    }

    /// What it must show.
    pub(crate) fn shows(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.claims.push((pointer, value.into()));
        self
    }

    /// With a further process, like init but for the change.
    pub(crate) fn exec(mut self, change: fn(&mut Value)) -> Self {
        self.exec = Some(change);
        self
    }

    /// Not with others.
    pub(crate) fn alone(mut self) -> Self {
        self.combines = false;
        self
    }
}

/// One spec.
pub(crate) struct Case {
    /// `feature: variation`, or `combination N: ...`.
    pub(crate) name: String,
    /// Indices into [`crate::cases::all`].
    pub(crate) parts: Vec<usize>,
}

/// Every variation on its own, then the combinations.
pub(crate) fn generate(variations: &[Variation], combinations: usize) -> Vec<Case> {
    let mut found: Vec<_> = variations
        .iter()
        .enumerate()
        .map(|(index, one)| Case {
            name: format!("{}: {}", one.feature, one.name),
            parts: vec![index],
        })
        .collect();
    let pool: Vec<_> = (0..variations.len()).filter(|&index| variations[index].combines).collect();
    let mut random = Random(0x5eed);
    for number in 0..combinations {
        let mut parts: Vec<usize> = Vec::new();
        let wanted = 3 + random.below(4);
        while parts.len() < wanted {
            let index = pool[random.below(pool.len())];
            // Two of one place in the spec would undo each other.
            let place = variations[index].place();
            if parts.iter().all(|&known| variations[known].place() != place) {
                parts.push(index);
            }
        }
        parts.sort_unstable();
        let names: Vec<_> = parts
            .iter()
            .map(|&part| format!("{}: {}", variations[part].feature, variations[part].name))
            .collect();
        found.push(Case { name: format!("combination {number}: {}", names.join(" + ")), parts });
    }
    found
}

/// Has init stay, so that something can be executed beside it.
fn stay(spec: &mut Value) {
    if spec["process"]["args"][1] == "probe" {
        spec["process"]["args"] = json!([spec["process"]["args"][0], "probe", "stay"]);
    }
}

impl Case {
    /// Its spec in one place.
    pub(crate) fn spec(&self, variations: &[Variation], setting: &Setting<'_>) -> Value {
        let mut spec = base(setting);
        for &part in &self.parts {
            (variations[part].shape)(&mut spec, setting);
        }
        if self.has_exec(variations) {
            stay(&mut spec);
        }
        spec
    }

    /// Whether a further process is executed.
    pub(crate) fn has_exec(&self, variations: &[Variation]) -> bool {
        self.parts.iter().any(|&part| variations[part].exec.is_some())
    }

    /// Whether a namespace is joined by its path.
    pub(crate) fn joins(&self, variations: &[Variation]) -> bool {
        self.parts.iter().any(|&part| variations[part].feature == "namespaces, joined")
    }

    /// The further process.
    pub(crate) fn process(&self, variations: &[Variation], spec: &Value) -> Value {
        let mut process = spec["process"].clone();
        process["args"] = json!(["/bin/probe", "probe", "exit", "5"]);
        for change in self.parts.iter().filter_map(|&part| variations[part].exec) {
            change(&mut process);
        }
        process
    }
}

/// containerd's default spec, running the probe.
fn base(setting: &Setting<'_>) -> Value {
    let args = ["/bin/probe", "probe", "exit", "3"].map(str::to_owned);
    let mut spec = bundle::spec(&args, &format!("/{}/{}", setting.token, setting.id));
    spec["hostname"] = json!("differ");
    spec
}

/// The same numbers every time (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The limit is small, so the bias is, too.
        usize::try_from(mixed % limit.max(1) as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn the_same_number_makes_the_same_cases() {
        let variations = cases::all();
        let names = |count| -> Vec<String> {
            generate(&variations, count).into_iter().map(|case| case.name).collect()
        };
        assert_eq!(names(50), names(50));
        assert_eq!(names(10)[..], names(50)[..variations.len() + 10]);
    }

    #[test]
    fn every_variation_has_a_name_of_its_own() {
        let mut names: Vec<_> =
            cases::all().iter().map(|one| format!("{}: {}", one.feature, one.name)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
