//! Compiles `proto/` into tonic clients and servers, with protox in the place of protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    grpc::compile()?;
    Ok(())
}

#[cfg(feature = "grpc")]
mod grpc {
    use std::error::Error;
    use std::path::{Path, PathBuf};
    use std::{fs, io};

    pub(crate) fn compile() -> Result<(), Box<dyn Error>> {
        let root = Path::new("proto");
        let mut files = Vec::new();
        collect(root, &mut files)?;
        files.sort();
        let descriptors = protox::compile(&files, [root])?;
        let mut config = prost_build::Config::new();
        config.enable_type_names();
        // A method that a service does not write answers UNIMPLEMENTED.
        tonic_prost_build::configure()
            .build_transport(false)
            .generate_default_stubs(true)
            .compile_fds_with_config(descriptors, config)?;
        Ok(())
    }

    fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                collect(&path, files)?;
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
        Ok(())
    }
}
