# What the tests share.
{ pkgs }:
let
  # Copied to the store on their own: a path below the project's would be all of it.
  scenarios = builtins.path {
    path = ../scenarios;
    name = "scenarios";
  };
  makeLowerStore = builtins.path {
    path = ../images/make-lower-store;
    name = "make-lower-store";
  };
in
{
  # Every machine: the module, people, and a Nix that needs no network.
  machine =
    { pkgs, ... }:
    {
      imports = [ ../../nixos ];
      # The store of a guest has what its system needs, and nothing that only a test
      # script names.
      system.extraDependencies = [
        scenarios
        makeLowerStore
      ];
      environment.systemPackages = [
        pkgs.sqlite
        pkgs.psmisc
      ];
      users.users = {
        alice.isNormalUser = true;
        bob.isNormalUser = true;
      };
      nix.settings = {
        sandbox = false;
        substituters = pkgs.lib.mkForce [ ];
        sync-before-registering = true;
      };
      # The scenarios build with /bin/sh and these, where Debian has them.
      systemd.tmpfiles.rules =
        map (name: "L+ /bin/${name} - - - - ${pkgs.coreutils}/bin/${name}")
          [
            "cat"
            "chmod"
            "head"
            "mkdir"
            "sleep"
            "tr"
          ];
    };

  # What test scripts begin with: `scenario` runs a script of the scenarios, or
  # lines that use what these share.
  prelude = ''
    ENVIRONMENT = " ".join([
        "OVERSTORE_TEST=${scenarios}",
        "OVERSTORE_TEST_GUEST=nixos",
        "OVERSTORE_TEST_REPORTED=/var/lib/overstore-test/reported",
    ])

    def scenario(machine, script, more=""):
        machine.succeed("mkdir -p /var/lib/overstore-test; touch /var/lib/overstore-test/reported")
        return machine.succeed(f"{ENVIRONMENT} {more} sh -eu ${scenarios}/{script}")

    def lines(machine, text, more=""):
        script = '. "$OVERSTORE_TEST/lib.sh"\n' + text
        machine.succeed(f"cat >/tmp/script <<'END OF SCRIPT'\n{script}\nEND OF SCRIPT")
        return machine.succeed(f"{ENVIRONMENT} {more} sh -eu /tmp/script").strip()

    # A small lower store, where the Debian guests have it.
    def make_lower_store(machine, root="/srv/lower"):
        machine.succeed(f"NIX_REMOTE=local sh ${makeLowerStore} {root}")

    def no_ordering_cycle(machine):
        machine.succeed("sh -eu ${scenarios}/after-boot")
  '';
}
