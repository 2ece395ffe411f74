# A CycloneDX document for an image, from the names of the store paths in it.
# For programs of ours, with the crates that are compiled into them.
[inputs] as $paths
| {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      component: {type: "container", "bom-ref": "\($name):\($tag)", name: $name, version: $tag}
    },
    components: (
      [
        $paths[]
        # Nix's own rule: the version begins after the first dash that no letter follows.
        | . as $path
        | capture("^[^-]+-(?<name>.*?)(-(?<version>[^a-zA-Z].*))?$")
        | {
            type: "library",
            "bom-ref": "/nix/store/\($path)",
            name,
            purl: "pkg:nix/\(.name | @uri)"
          }
          + (if .version then {version, purl: "pkg:nix/\(.name | @uri)@\(.version | @uri)"} else {} end)
      ]
      + [
        $programs[0][]
        | select(.path as $path | $paths | index($path))
        | .crates[]
        | select(.source)
        | {
            type: "library",
            "bom-ref": "crate \(.name) \(.version)",
            name,
            version,
            purl: "pkg:cargo/\(.name)@\(.version | @uri)",
            hashes: [{alg: "SHA-256", content: .checksum}]
          }
      ]
    )
  }
