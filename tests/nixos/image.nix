# nixos/lower-store.nix without nixpkgs: real derivations of real Nix, whose tools are
# the machine's. Two objects, of which one refers to the other.
{ type }:
let
  derive =
    name: attributes: script:
    derivation (
      {
        inherit name script;
        system = builtins.currentSystem;
        builder = "/bin/bash";
        args = [
          "-euc"
          ''export PATH=/usr/bin:/bin HOME=/homeless-shelter; eval "$script"''
        ];
      }
      // removeAttrs attributes [ "nativeBuildInputs" ]
    );

  words = derive "words" { } ''mkdir $out; echo "said below" >$out/words'';
  program = derive "program" { } ''
    mkdir -p $out/bin; printf '#!/bin/sh\nexec cat ${words}/words\n' >$out/bin/program; chmod +x $out/bin/program
  '';

  make = import ../../nixos/lower-store.nix {
    lib = {
      optional = condition: value: if condition then [ value ] else [ ];
    };
    runCommand = derive;
    buildPackages = null;
    overstore = null;
    squashfsTools = null;
    erofs-utils = null;
    # What nixpkgs' own has, made of what Nix says of the closure.
    closureInfo =
      { rootPaths }:
      derivation {
        name = "closure-info";
        system = builtins.currentSystem;
        builder = "/bin/bash";
        __structuredAttrs = true;
        exportReferencesGraph.closure = rootPaths;
        script = ''
          source "$NIX_ATTRS_SH_FILE"
          mkdir ''${outputs[out]}
          ask() {
              nix --extra-experimental-features nix-command --store dummy:// eval --raw --impure --expr "
                with builtins; let
                  closure = (fromJSON (readFile (getEnv \"NIX_ATTRS_JSON_FILE\"))).closure;
                  lines = values: concatStringsSep \"\" (map (value: toString value + \"\n\") values);
                in $1"
          }
          ask 'lines (map (one: one.path) closure)' >''${outputs[out]}/store-paths
          ask 'lines (concatMap (one: [ one.path one.narHash one.narSize "" (length one.references) ]
              ++ one.references) closure)' >''${outputs[out]}/registration
        '';
        args = [
          "-euc"
          ''
            export PATH=/usr/bin:/bin HOME=/homeless-shelter
            source "$NIX_ATTRS_SH_FILE"; eval "$script"
          ''
        ];
      };
  };
in
make {
  inherit type;
  storeContents = [ program ];
}
