// Browsers refuse to start a worker in a page that is opened as a file. The search of the theme runs
// its worker in a hidden frame instead, so that it needs no server.
if (location.protocol === 'file:') {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement('iframe')
      frame.hidden = true
      document.body.append(frame)
      const inner = frame.contentWindow
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', { data }))
      this.loaded = new Promise((resolve, reject) => {
        const script = inner.document.createElement('script')
        script.onload = () => resolve(inner)
        script.onerror = () => reject(new Error(`cannot load ${url}`))
        script.src = url
        inner.document.body.append(script)
      })
    }

    postMessage(data) {
      this.loaded.then((inner) => inner.dispatchEvent(new inner.MessageEvent('message', { data })))
    }
  }
}
