# Of NixOS's `pkgs`, what the module uses: real derivations, made with nothing but
# a shell.
{ lib }:
rec {
  inherit lib;
  # A package that is only a name (not in nixpkgs).
  package =
    name: version: outPath:
    let
      it = {
        type = "derivation";
        name = "${name}-${version}";
        pname = name;
        inherit version outPath;
        out = it;
      };
    in
    it;

  runCommand =
    name: _attributes: script:
    derivation {
      inherit name script;
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [
        "-euc"
        ''export PATH=/usr/bin:/bin; eval "$script"''
      ];
    };

  writeShellScript = name: text: runCommand name { } ''
    cat >$out <<'END OF TEXT'
    #!/bin/sh
    ${text}
    END OF TEXT
    chmod +x $out
  '';
  # The tests never build for another machine.
  stdenv = {
    hostPlatform = { };
    buildPlatform.canExecute = _: true;
  };

  writeText =
    name: text:
    runCommand name { } "cat >$out <<'END OF TEXT'\n${text}\nEND OF TEXT\n";
  linkFarm =
    name: entries:
    runCommand name { } (
      "mkdir $out\n"
      + lib.concatStrings (lib.mapAttrsToList (link: target: "ln -s ${target} $out/${link}\n") entries)
    );
  formats.toml = _: {
    type = lib.types.attrsOf (lib.types.raw // { description = "TOML value"; });
    generate = name: value: builtins.toFile name (import ./toml.nix { inherit lib; } value);
  };
  # Only named by the examples.
  callPackage =
    _file: _arguments: _:
    package "image" "1" "/image";
}
