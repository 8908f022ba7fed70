# What the test scripts of vm-tests/nixos/ use of NixOS's driver, with its types. The tests with the
# whole nixpkgs compare it with the driver itself.
import typing


class DriversMachine(typing.Protocol):
    name: str

    def start(self, allow_reboot: bool = False) -> None: ...

    def wait_for_unit(
        self, unit: str, user: str | None = None, timeout: int = 900
    ) -> None: ...

    def succeed(self, *commands: str, timeout: int | None = None) -> str: ...

    def fail(self, *commands: str, timeout: int | None = None) -> str: ...

    def reboot(self) -> None: ...

    def crash(self) -> None: ...


