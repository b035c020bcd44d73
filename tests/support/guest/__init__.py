"""A real virtual machine that writes what can be checked: see running.py, disks.py, checking.py, monitor.py."""

from __future__ import annotations

from tests.support.guest.arrivals import Gaps as Gaps
from tests.support.guest.arrivals import Line as Line
from tests.support.guest.checking import Checked as Checked
from tests.support.guest.checking import check_disk as check_disk
from tests.support.guest.checking import check_disk_by_booting as check_disk_by_booting
from tests.support.guest.disks import copy_disk as copy_disk
from tests.support.guest.disks import make_disk as make_disk
from tests.support.guest.image import GuestImage as GuestImage
from tests.support.guest.image import NoGuestError as NoGuestError
from tests.support.guest.image import build_guest as build_guest
from tests.support.guest.image import guest_image as guest_image
from tests.support.guest.monitor import Monitor as Monitor
from tests.support.guest.monitor import RefusedError as RefusedError
from tests.support.guest.monitor import agent as agent
from tests.support.guest.monitor import monitor as monitor
from tests.support.guest.running import Durable as Durable
from tests.support.guest.running import Guest as Guest
from tests.support.guest.running import GuestDiedError as GuestDiedError
from tests.support.guest.running import Load as Load
from tests.support.guest.running import best_accel as best_accel
from tests.support.guest.running import running_guest as running_guest
