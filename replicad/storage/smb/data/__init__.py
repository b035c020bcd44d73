"""The data channel: READ and WRITE framed, signed and sealed here, on a connection that smbprotocol has set up."""
