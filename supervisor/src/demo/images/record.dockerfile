# Appends each line it is sent to its volume, fsyncs, then answers: what it acknowledged
# must be there for ever. Perl is in Debian's smallest base, so it starts at once.
FROM debian:bookworm-slim
RUN perl -e 'print pack("H*", "@PROGRAM@")' > /usr/local/bin/record
EXPOSE 7000
CMD ["/usr/bin/perl", "/usr/local/bin/record"]
