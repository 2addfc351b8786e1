//! Types, clients and servers, one module a protobuf package, nested as the packages are
//! because the generated code refers to its siblings by relative path.

pub mod containerd {
    pub mod events {
        ::tonic::include_proto!("containerd.events");
    }
    pub mod runc {
        pub mod v1 {
            ::tonic::include_proto!("containerd.runc.v1");
        }
    }
    pub mod services {
        pub mod containers {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.containers.v1");
            }
        }
        pub mod content {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.content.v1");
            }
        }
        pub mod diff {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.diff.v1");
            }
        }
        pub mod events {
            pub mod ttrpc {
                pub mod v1 {
                    ::tonic::include_proto!("containerd.services.events.ttrpc.v1");
                }
            }
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.events.v1");
            }
        }
        pub mod images {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.images.v1");
            }
        }
        pub mod introspection {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.introspection.v1");
            }
        }
        pub mod leases {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        pub mod namespaces {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.namespaces.v1");
            }
        }
        pub mod sandbox {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.sandbox.v1");
            }
        }
        pub mod snapshots {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
        pub mod streaming {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.streaming.v1");
            }
        }
        pub mod tasks {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.tasks.v1");
            }
        }
        pub mod transfer {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.transfer.v1");
            }
        }
        pub mod version {
            pub mod v1 {
                ::tonic::include_proto!("containerd.services.version.v1");
            }
        }
    }
    pub mod types {
        ::tonic::include_proto!("containerd.types");
        pub mod transfer {
            ::tonic::include_proto!("containerd.types.transfer");
        }
    }
    pub mod v1 {
        pub mod types {
            ::tonic::include_proto!("containerd.v1.types");
        }
    }
}
pub mod google {
    pub mod rpc {
        ::tonic::include_proto!("google.rpc");
    }
}
pub mod grpc {
    pub mod health {
        pub mod v1 {
            ::tonic::include_proto!("grpc.health.v1");
        }
    }
}
pub mod runtimeoptions {
    pub mod v1 {
        ::tonic::include_proto!("runtimeoptions.v1");
    }
}
pub mod supervisor {
    pub mod check {
        pub mod v1 {
            ::tonic::include_proto!("supervisor.check.v1");
        }
    }
    pub mod install {
        pub mod v1 {
            ::tonic::include_proto!("supervisor.install.v1");
        }
    }
}
