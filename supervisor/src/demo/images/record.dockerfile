# Appends each line it is sent to its volume, fsyncs, then answers: what it acknowledged
# must be there for ever. Perl is in Debian's smallest base, so it starts at once.
FROM debian:bookworm-slim
COPY record /usr/local/bin/record
EXPOSE 7000
VOLUME /data
CMD ["/usr/bin/perl", "/usr/local/bin/record"]
