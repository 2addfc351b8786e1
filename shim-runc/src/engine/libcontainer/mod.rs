//! Containers made by libcontainer, in a helper process of the shim's own.
