"""The programs that stand behind the NATs, and the lines spoken with them."""
