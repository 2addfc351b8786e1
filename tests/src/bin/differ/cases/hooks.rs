//! Hooks: at each stage, in which namespaces, with which state, and what their failing does.

use serde_json::{Value, json};

use super::push;
use crate::case::{Setting, Variation};

/// A hook that tells what it sees.
fn hook(spec: &mut Value, at: &Setting<'_>, stage: &str, more: &[&str]) {
    // The last of them runs in the container's own tree.
    let (program, log) = if stage == "startContainer" {
        if !spec["mounts"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["destination"] == "/hooks"))
        {
            push(
                &mut spec["mounts"],
                json!({"destination": "/hooks", "type": "bind", "source": at.dir.join("hooks"),
                    "options": ["rbind"]}),
            );
        }
        ("/bin/probe".into(), "/hooks/log".into())
    } else {
        (at.program.to_owned(), at.dir.join("hooks/log"))
    };
    let mut args = vec![json!("differ"), json!("hook"), json!(stage), json!(log)];
    args.extend(more.iter().map(|word| json!(word)));
    push(
        &mut spec["hooks"][stage],
        json!({"path": program, "args": args, "env": ["STAGE=a stage", "X=1"], "timeout": 20}),
    );
}

pub(super) fn all() -> Vec<Variation> {
    let v = Variation::new;
    let (name, failing) = ("hooks", "hooks that fail");
    let mut all = vec![
        v(name, "prestart", |spec, at| hook(spec, at, "prestart", &[]))
            .shows("/hooks/0/stage", "prestart")
            .shows("/hooks/0/id", "<id>")
            .shows("/hooks/0/bundle", "<bundle>"),
        v(name, "createRuntime", |spec, at| hook(spec, at, "createRuntime", &[]))
            .shows("/hooks/0/stage", "createRuntime")
            .shows("/hooks/0/mnt", "host")
            .shows("/hooks/0/has pid", true),
        v(name, "createContainer", |spec, at| hook(spec, at, "createContainer", &[]))
            .shows("/hooks/0/stage", "createContainer")
            .shows("/hooks/0/mnt", "own"),
        v(name, "startContainer", |spec, at| hook(spec, at, "startContainer", &[]))
            .shows("/hooks/0/stage", "startContainer")
            .shows("/hooks/0/mnt", "own")
            .shows("/hooks/0/in container", true),
        v(name, "poststart", |spec, at| hook(spec, at, "poststart", &[]))
            .shows("/hooks/0/stage", "poststart")
            .shows("/hooks/0/status", "running"),
        v(name, "poststop", |spec, at| hook(spec, at, "poststop", &[]))
            .shows("/hooks/0/stage", "poststop")
            .shows("/hooks/0/status", "stopped"),
        v(name, "all, in their order", |spec, at| {
            for stage in STAGES {
                hook(spec, at, stage, &[]);
            }
            // A poststart hook may still be running when the container has ended.
            spec["process"]["args"] = json!(["/bin/sh", "-c", "sleep 0.3; exec /bin/probe probe"]);
        })
        .shows("/hooks/0/stage", "prestart")
        .shows("/hooks/1/stage", "createRuntime")
        .shows("/hooks/2/stage", "createContainer")
        .shows("/hooks/3/stage", "startContainer")
        .shows("/hooks/4/stage", "poststart")
        .shows("/hooks/5/stage", "poststop")
        .alone(),
        v(name, "two of one stage", |spec, at| {
            hook(spec, at, "createRuntime", &["x"]);
            hook(spec, at, "createRuntime", &[]);
        })
        .shows("/hooks/1/stage", "createRuntime")
        .alone(),
        v(name, "with annotations", |spec, at| {
            spec["annotations"] = json!({"org.example.key": "value"});
            hook(spec, at, "createRuntime", &[]);
        })
        .shows("/hooks/0/annotations/org.example.key", "value")
        .alone(),
        v(name, "none", |spec, _| spec["hooks"] = json!({"prestart": []})).alone(),
    ];
    all.extend([
        v(failing, "prestart", |spec, at| hook(spec, at, "prestart", &["fail"])).refused(),
        v(failing, "createRuntime", |spec, at| hook(spec, at, "createRuntime", &["fail"]))
            .refused(),
        v(failing, "createContainer", |spec, at| hook(spec, at, "createContainer", &["fail"]))
            .refused(),
        v(failing, "startContainer", |spec, at| hook(spec, at, "startContainer", &["fail"]))
            .refused(),
        v(failing, "poststart", |spec, at| hook(spec, at, "poststart", &["fail"])).open(),
        v(failing, "poststop", |spec, at| hook(spec, at, "poststop", &["fail"])).alone(),
        v(failing, "too slow", |spec, at| {
            hook(spec, at, "createRuntime", &["sleep"]);
            spec["hooks"]["createRuntime"][0]["timeout"] = json!(1);
        })
        .refused(),
        v(failing, "not there", |spec, at| {
            hook(spec, at, "createRuntime", &[]);
            spec["hooks"]["createRuntime"][0]["path"] = json!("/nothing");
        })
        .refused(),
        v(failing, "by a relative path", |spec, at| {
            hook(spec, at, "createRuntime", &[]);
            spec["hooks"]["createRuntime"][0]["path"] = json!("bin/true");
        })
        .refused(),
    ]);
    all
}

const STAGES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
