# The labels of every image, by their short names in the OCI image specification ("Pre-Defined Annotation Keys").
{ lib }:

labels:
lib.mapAttrs' (name: lib.nameValuePair "org.opencontainers.image.${name}") (
  { source = (lib.importTOML ../../Cargo.toml).workspace.package.repository; } // labels
)
