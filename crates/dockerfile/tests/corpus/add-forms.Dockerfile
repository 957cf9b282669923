FROM base
ADD a.tar.gz /x/
ADD --unpack=false b.tar /x/
ADD --unpack=true https://example.com/c.tgz /x/
ADD https://example.com/d/e.txt?x=1#frag /f
ADD --checksum=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef https://example.com/g /h
ADD --keep-git-dir=true https://example.com/r.git#v1:sub /git
ADD git@example.com:r.git /git2
ADD --chown=app --link file /l
