let
  inherit (builtins)
    any
    concatMap
    listToAttrs
    map
    stringLength
    substring
    toString
    ;
  hasPrefix = prefix: string: substring 0 (stringLength prefix) string == prefix;
in
rec {
  inherit (builtins) mapAttrs replaceStrings;

  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );

  callPackageWith =
    scope: file: overrides:
    let
      f = if builtins.isFunction file then file else import file;
      result = f (builtins.intersectAttrs (builtins.functionArgs f) scope // overrides);
    in
    # As in nixpkgs, for any attribute set.
    if builtins.isAttrs result then
      result
      // {
        override = changed: callPackageWith scope file (overrides // changed);
        overrideDerivation = throw "the stand-in has no overrideDerivation";
      }
    else
      result;

  importTOML = file: builtins.fromTOML (builtins.readFile file);
  getExe =
    package:
    "${package}/bin/${package.meta.mainProgram or (throw "${package.name} has no meta.mainProgram")}";
  getExe' = package: name: "${package}/bin/${name}";
  concatMapAttrsStringSep =
    separator: f: attrs:
    builtins.concatStringsSep separator (mapAttrsToList f attrs);
  mapAttrsToList = f: attrs: map (name: f name attrs.${name}) (builtins.attrNames attrs);
  mapAttrs' = f: attrs: listToAttrs (mapAttrsToList f attrs);
  nameValuePair = name: value: { inherit name value; };
  filterAttrs =
    wanted: attrs:
    removeAttrs attrs (builtins.filter (name: !wanted name attrs.${name}) (builtins.attrNames attrs));
  makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
  concatLines = lines: builtins.concatStringsSep "" (map (line: "${line}\n") lines);
  splitString =
    separator: string: builtins.filter builtins.isString (builtins.split separator string);
  toLower = string: string; # our names are lowercase
  inherit hasPrefix;
  hasSuffix =
    suffix: string:
    let
      start = stringLength string - stringLength suffix;
    in
    start >= 0 && substring start (-1) string == suffix;
  fix =
    f:
    let
      x = f x;
    in
    x;
  makeOverridable = f: args: f args // { override = new: makeOverridable f (args // new); };
  concatMapStringsSep =
    separator: f: list:
    builtins.concatStringsSep separator (map f list);
  optionals = condition: list: if condition then list else [ ];
  optionalAttrs = condition: attrs: if condition then attrs else { };
  versionAtLeast = version: least: builtins.compareVersions version least >= 0;
  optionalString = condition: string: if condition then string else "";
  subtractLists = remove: builtins.filter (x: !builtins.elem x remove);

  fileset = {
    fileFilter =
      wanted: path:
      let
        entries = builtins.readDir path;
        here = name: path + "/${name}";
        ofEntry =
          name:
          if entries.${name} == "directory" then
            fileset.fileFilter wanted (here name)
          else if wanted { hasExt = extension: hasSuffix ".${extension}" name; } then
            [ (here name) ]
          else
            [ ];
      in
      concatMap ofEntry (builtins.attrNames entries);
    unions = concatMap (
      path:
      if builtins.isList path then
        path
      else if builtins.pathExists path then
        [ path ]
      else
        throw "lib.fileset.unions: ${toString path} does not exist"
    );
    toSource =
      { root, fileset }:
      let
        wanted = map toString fileset;
      in
      {
        outPath = builtins.path {
          name = "source";
          path = root;
          filter =
            path: _: any (file: path == file || hasPrefix "${file}/" path || hasPrefix "${path}/" file) wanted;
        };
      };
  };

  licenses = {
    mit.spdxId = "MIT";
    asl20.spdxId = "Apache-2.0";
  };

  systems.flakeExposed = [
    "x86_64-linux"
    "aarch64-linux"
    "x86_64-darwin"
    "aarch64-darwin"
    "riscv64-linux"
  ];
}
