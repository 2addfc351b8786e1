//! Images written byte by byte, so that a test knows each byte, and can damage it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer being written.
pub struct Layer(Builder<Vec<u8>>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layer").field(&self.0.get_ref().len()).finish()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, "", mode, &[])
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", mode, content)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, &[])
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, &[])
    }

    /// Adds an entry whose names are written as they are, valid or not.
    ///
    /// # Panics
    ///
    /// When a name has more than 100 bytes.
    #[must_use]
    pub fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        {
            // Past the library's own checks, which would refuse what a test wants to try.
            let raw = header.as_gnu_mut().expect("made as one");
            raw.name[..name.len()].copy_from_slice(name.as_bytes());
            raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.0.append(&header, content).expect("memory takes everything");
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("memory takes everything")
    }
}

/// An image being put together.
#[derive(Debug)]
pub struct Image {
    name: String,
    layers: Vec<Vec<u8>>,
    config: Value,
}

impl Image {
    /// An image of this name without layers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let config = json!({ "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
        Self { name: name.to_owned(), layers: Vec::new(), config }
    }

    /// A small image whose one layer is a static busybox with its most used names.
    ///
    /// # Panics
    ///
    /// When busybox-static is not installed.
    #[must_use]
    pub fn busybox(name: &str) -> Self {
        let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
        let mut layer = Layer::new()
            .dir("bin/", 0o755)
            .file("bin/busybox", 0o755, &busybox)
            .dir("dev/", 0o755)
            .dir("etc/", 0o755)
            .dir("proc/", 0o755)
            .dir("sys/", 0o755)
            .dir("tmp/", 0o1777)
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
            .file("etc/group", 0o644, b"root:x:0:\n");
        for applet in
            ["sh", "true", "false", "cat", "echo", "ls", "sleep", "kill", "id", "dd", "env"]
        {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        Self::new(name).layer(layer)
    }

    /// An image that installs binaries: each goes to `bin/`.
    ///
    /// # Panics
    ///
    /// When a binary cannot be read.
    #[must_use]
    pub fn binaries(name: &str, binaries: &[(&str, &Path)]) -> Self {
        let mut layer = Layer::new().dir("bin/", 0o755);
        for (file, path) in binaries {
            let content =
                fs::read(path).unwrap_or_else(|why| panic!("read {}: {why}", path.display()));
            layer = layer.file(&format!("bin/{file}"), 0o755, &content);
        }
        Self::new(name).layer(layer)
    }

    /// Puts a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.bytes());
        self
    }

    /// Sets one field of the config's `config`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Every file of the image's OCI layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let mut files = BTreeMap::new();
        let mut put = |bytes: Vec<u8>| {
            let digest = hex(&bytes);
            let length = bytes.len();
            files.insert(format!("blobs/sha256/{digest}"), bytes);
            (format!("sha256:{digest}"), length)
        };
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let (digest, size) = put(layer.clone());
            diff_ids.push(digest.clone());
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": size,
            }));
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let (config, config_size) = put(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config,
                "size": config_size,
            },
            "layers": layers,
        });
        let (manifest, manifest_size) = put(manifest.to_string().into_bytes());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": manifest,
                "size": manifest_size,
                "annotations": {
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": self.name,
                },
            }],
        });
        files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        files.insert("index.json".into(), index.to_string().into_bytes());
        let blob = |digest: &Value| {
            let digest = digest.as_str().expect("written above");
            format!("blobs/sha256/{}", &digest["sha256:".len()..])
        };
        Layout {
            config: blob(&json!(config)),
            layers: layers.iter().map(|layer| blob(&layer["digest"])).collect(),
            files,
        }
    }

    /// Writes the image as an OCI archive.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn write(&self, to: &Path) -> PathBuf {
        self.layout().write(to)
    }
}

/// The files of an OCI layout, by name, which a test can damage.
#[derive(Debug)]
pub struct Layout {
    /// The config's blob.
    pub config: String,
    /// The layers' blobs, base first.
    pub layers: Vec<String>,
    /// Every file.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    /// Writes the layout as a tar archive.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn write(&self, to: &Path) -> PathBuf {
        let mut archive = Builder::new(Vec::new());
        for (name, content) in &self.files {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_slice()).expect("a plain name");
        }
        let bytes = archive.into_inner().expect("memory takes everything");
        fs::write(to, bytes).unwrap_or_else(|why| panic!("write {}: {why}", to.display()));
        to.to_owned()
    }
}

/// SHA-256 as hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
